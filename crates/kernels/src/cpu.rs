//! What this processor can do, found once at run time.

use std::fmt;
use std::sync::OnceLock;

/// The instruction sets the kernels choose between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// AVX2 with fused multiply-add and half-precision conversion: vectors of 8 floats.
    pub avx2: bool,
    /// AVX-512 F, BW, DQ and VL: vectors of 16 floats.
    pub avx512: bool,
    /// AVX-512 BF16: dot products of bfloat16 pairs with f32 sums.
    pub avx512_bf16: bool,
    /// AVX-512 VPOPCNTDQ: the bits set in each of eight words.
    pub avx512_popcount: bool,
    /// AMX BF16: products of whole tiles of bfloat16, if the system lets us have its registers.
    pub amx_bf16: bool,
}

/// The features of the processor we run on.
pub fn features() -> &'static Features {
    static FOUND: OnceLock<Features> = OnceLock::new();
    FOUND.get_or_init(detect)
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Features {
    let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
    let avx512 = avx2
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    let avx512_bf16 = avx512 && is_x86_feature_detected!("avx512bf16");
    let avx512_popcount = avx512 && is_x86_feature_detected!("avx512vpopcntdq");
    Features { avx2, avx512, avx512_bf16, avx512_popcount, amx_bf16: avx512_bf16 && amx_bf16() }
}

/// Whether the processor multiplies tiles of bfloat16, and the system knows how to keep them.
#[cfg(target_arch = "x86_64")]
fn amx_bf16() -> bool {
    const AMX_BF16: u32 = 1 << 22;
    const AMX_TILE: u32 = 1 << 24;
    let leaf = std::arch::x86_64::__cpuid_count(7, 0).edx;
    cfg!(target_os = "linux") && leaf & AMX_BF16 != 0 && leaf & AMX_TILE != 0 && crate::matmul::granted()
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Features {
    Features { avx2: false, avx512: false, avx512_bf16: false, avx512_popcount: false, amx_bf16: false }
}

/// One line for people: the architecture, the kernels chosen and the number of worker threads.
pub fn describe() -> String {
    format!("{}, {}, {} threads", std::env::consts::ARCH, features(), rayon::current_num_threads())
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (self.avx2, "avx2+fma"),
            (self.avx512, "avx512"),
            (self.avx512_bf16, "avx512-bf16"),
            (self.avx512_popcount, "avx512-popcount"),
            (self.amx_bf16, "amx-bf16"),
        ];
        let found: Vec<&str> = names.iter().filter(|n| n.0).map(|n| n.1).collect();
        if found.is_empty() { f.write_str("portable kernels") } else { f.write_str(&found.join(" ")) }
    }
}

/// Writes a function that runs `body` compiled for AVX2 and FMA where the processor has them, and plainly
/// elsewhere. `body` takes a const `bool`: whether fused multiply-add is an instruction.
macro_rules! dispatch {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? = $body:ident) => {
        $(#[$meta])*
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma,f16c")]
                fn wide($($arg: $ty),*) $(-> $ret)? {
                    $body::<true>($($arg),*)
                }
                if $crate::cpu::features().avx2 {
                    // SAFETY: `features` saw AVX2, FMA and F16C on this processor.
                    return unsafe { wide($($arg),*) };
                }
            }
            $body::<false>($($arg),*)
        }
    };
}
pub(crate) use dispatch;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wider_sets_imply_narrower_ones() {
        let f = features();
        assert!(f.avx2 || !f.avx512);
        assert!(f.avx512 || !f.avx512_bf16);
        assert!(f.avx512 || !f.avx512_popcount);
        assert!(f.avx512_bf16 || !f.amx_bf16);
    }

    #[test]
    fn the_description_names_the_threads() {
        assert!(describe().ends_with("threads"));
    }
}
