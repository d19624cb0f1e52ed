//! The few vector operations that attention tiles are written in.
//!
//! One algorithm, three widths: AVX-512, AVX2 and plain arrays. Every method is `#[inline(always)]`, so inside
//! a function compiled for the instruction set it becomes the instruction itself.

/// A vector of `f32` lanes.
///
/// # Safety
/// The methods of a type may only be called on a processor that has its instruction set; pointers must be
/// valid for `LANES` floats.
pub(super) trait Vector: Copy {
    /// Floats per vector.
    const LANES: usize;
    /// The same value in every lane.
    unsafe fn splat(x: f32) -> Self;
    /// Reads unaligned.
    unsafe fn load(p: *const f32) -> Self;
    /// Writes unaligned.
    unsafe fn store(self, p: *mut f32);
    /// `self * b + c`.
    unsafe fn mul_add(self, b: Self, c: Self) -> Self;
    /// `self + b`.
    unsafe fn add(self, b: Self) -> Self;
    /// `self - b`.
    unsafe fn sub(self, b: Self) -> Self;
    /// `self * b`.
    unsafe fn mul(self, b: Self) -> Self;
    /// The larger, lane by lane; NaN in `self` is lost.
    unsafe fn max(self, b: Self) -> Self;
    /// `2^x` for `x <= 0` or NaN, within 2 ulp; fades to zero below -126.
    unsafe fn exp2(self) -> Self;
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{ROUND, Vector, polynomial};
    use std::arch::x86_64::*;

    impl Vector for __m512 {
        const LANES: usize = 16;
        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            // SAFETY: the trait's contract, here and in every method below.
            unsafe { _mm512_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self {
            // SAFETY: as above.
            unsafe { _mm512_loadu_ps(p) }
        }
        #[inline(always)]
        unsafe fn store(self, p: *mut f32) {
            // SAFETY: as above.
            unsafe { _mm512_storeu_ps(p, self) }
        }
        #[inline(always)]
        unsafe fn mul_add(self, b: Self, c: Self) -> Self {
            // SAFETY: as above.
            unsafe { _mm512_fmadd_ps(self, b, c) }
        }
        #[inline(always)]
        unsafe fn add(self, b: Self) -> Self {
            // SAFETY: as above.
            unsafe { _mm512_add_ps(self, b) }
        }
        #[inline(always)]
        unsafe fn sub(self, b: Self) -> Self {
            // SAFETY: as above.
            unsafe { _mm512_sub_ps(self, b) }
        }
        #[inline(always)]
        unsafe fn mul(self, b: Self) -> Self {
            // SAFETY: as above.
            unsafe { _mm512_mul_ps(self, b) }
        }
        #[inline(always)]
        unsafe fn max(self, b: Self) -> Self {
            // SAFETY: as above.
            unsafe { _mm512_max_ps(self, b) }
        }
        #[inline(always)]
        unsafe fn exp2(self) -> Self {
            // SAFETY: as above.
            unsafe {
                // the fraction of minus infinity is zero here, so its weight is zero and not NaN
                let fraction = _mm512_reduce_ps::<0>(self);
                _mm512_scalef_ps(polynomial(fraction), _mm512_roundscale_ps::<0>(self))
            }
        }
    }

    impl Vector for __m256 {
        const LANES: usize = 8;
        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            // SAFETY: as above.
            unsafe { _mm256_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self {
            // SAFETY: as above.
            unsafe { _mm256_loadu_ps(p) }
        }
        #[inline(always)]
        unsafe fn store(self, p: *mut f32) {
            // SAFETY: as above.
            unsafe { _mm256_storeu_ps(p, self) }
        }
        #[inline(always)]
        unsafe fn mul_add(self, b: Self, c: Self) -> Self {
            // SAFETY: as above.
            unsafe { _mm256_fmadd_ps(self, b, c) }
        }
        #[inline(always)]
        unsafe fn add(self, b: Self) -> Self {
            // SAFETY: as above.
            unsafe { _mm256_add_ps(self, b) }
        }
        #[inline(always)]
        unsafe fn sub(self, b: Self) -> Self {
            // SAFETY: as above.
            unsafe { _mm256_sub_ps(self, b) }
        }
        #[inline(always)]
        unsafe fn mul(self, b: Self) -> Self {
            // SAFETY: as above.
            unsafe { _mm256_mul_ps(self, b) }
        }
        #[inline(always)]
        unsafe fn max(self, b: Self) -> Self {
            // SAFETY: as above.
            unsafe { _mm256_max_ps(self, b) }
        }
        #[inline(always)]
        unsafe fn exp2(self) -> Self {
            // SAFETY: as above.
            unsafe {
                // `max` keeps its second operand if that is NaN
                let x = Self::splat(-127.0).max(self);
                let magic = x.add(Self::splat(ROUND));
                let n = _mm256_add_epi32(_mm256_castps_si256(magic), _mm256_set1_epi32(127));
                let scale = _mm256_castsi256_ps(_mm256_slli_epi32::<23>(n));
                polynomial(x.sub(magic.sub(Self::splat(ROUND)))).mul(scale)
            }
        }
    }
}

/// Eight floats without any instruction set.
#[derive(Clone, Copy)]
pub(super) struct Plain([f32; 8]);

impl Vector for Plain {
    const LANES: usize = 8;
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Plain([x; 8])
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: `p` is valid for eight floats, by the contract.
        Plain(unsafe { p.cast::<[f32; 8]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: `p` is valid for eight floats, by the contract.
        unsafe { p.cast::<[f32; 8]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn mul_add(self, b: Self, c: Self) -> Self {
        Plain(std::array::from_fn(|i| self.0[i] * b.0[i] + c.0[i]))
    }
    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        Plain(std::array::from_fn(|i| self.0[i] + b.0[i]))
    }
    #[inline(always)]
    unsafe fn sub(self, b: Self) -> Self {
        Plain(std::array::from_fn(|i| self.0[i] - b.0[i]))
    }
    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        Plain(std::array::from_fn(|i| self.0[i] * b.0[i]))
    }
    #[inline(always)]
    unsafe fn max(self, b: Self) -> Self {
        Plain(std::array::from_fn(|i| if self.0[i] > b.0[i] { self.0[i] } else { b.0[i] }))
    }
    #[inline(always)]
    unsafe fn exp2(self) -> Self {
        // SAFETY: plain arrays need no instruction set.
        unsafe {
            let x = Self::splat(-127.0).max(self);
            let magic = x.add(Self::splat(ROUND));
            let scale = Plain(magic.0.map(|m| f32::from_bits(m.to_bits().wrapping_add(127) << 23)));
            polynomial(x.sub(magic.sub(Self::splat(ROUND)))).mul(scale)
        }
    }
}

/// Adding and subtracting this rounds to an integer.
const ROUND: f32 = 12_582_912.0;

/// `2^f` for `f` between -1/2 and 1/2.
///
/// # Safety
/// As for [`Vector`].
#[inline(always)]
unsafe fn polynomial<V: Vector>(f: V) -> V {
    // SAFETY: passed on to the caller.
    unsafe {
        let p = V::splat(0.000_153_456_6).mul_add(f, V::splat(0.001_339_998_4));
        let p = p.mul_add(f, V::splat(0.009_618_49));
        let p = p.mul_add(f, V::splat(0.055_503_286));
        let p = p.mul_add(f, V::splat(0.240_226_47));
        let p = p.mul_add(f, V::splat(std::f32::consts::LN_2));
        p.mul_add(f, V::splat(1.0))
    }
}
