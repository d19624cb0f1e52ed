//! The AMX product: tiles of sixteen rows and forty-eight outputs kept in tile registers.
//!
//! Rows are packed tile by tile, `(panel of 16 rows, step of 16 pairs, row, pair)`, so that a tile is sixteen lines of the
//! cache in a row. The weight's panels are what the instruction wants on its other side as they are. For each step of
//! sixteen pairs a tile of rows and three of weights are loaded and three products taken.

use super::bf16::PANEL;
use super::panels::{Kernel, Out, Panel};
use crate::buffer::scratch;
use crate::cast;
use std::arch::asm;
use std::marker::PhantomData;

/// Rows of a tile.
pub(crate) const HIGH: usize = 16;
/// Pairs of inputs in a tile: a line of the cache.
pub(crate) const DEEP: usize = 16;
/// Words of a tile.
pub(crate) const TILE: usize = HIGH * DEEP;
/// Steps of inputs after which sums go to memory, so that a weight panel stays in the first-level cache.
const BLOCK: usize = 8;

/// Asks the system for the tile registers; it grants them to the whole process or not at all.
pub(crate) fn granted() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    const XTILEDATA: u64 = 18;
    let granted: i64;
    // SAFETY: the call reads no memory of ours; kernels that do not know it say so.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => granted,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XTILEDATA,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    granted == 0
}

/// The tile registers of this thread, set up for tiles of sixteen lines.
pub(crate) struct Tiles(PhantomData<*const ()>);

/// How registers are to be cut: all of them as sixteen rows of 64 bytes.
#[repr(C, align(64))]
struct Palette {
    palette: u8,
    start: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Tiles {
    /// Lends the registers to `work`.
    ///
    /// # Safety
    /// The processor must have AMX and the system must have granted it.
    pub(crate) unsafe fn lend<R>(work: impl FnOnce(&Tiles) -> R) -> R {
        let mut palette = Palette { palette: 1, start: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        palette.row_bytes[..8].fill(64);
        palette.rows[..8].fill(16);
        // SAFETY: the palette is 64 bytes as the instruction wants them.
        unsafe { asm!("ldtilecfg [{0}]", in(reg) &palette, options(nostack, readonly)) };
        let result = work(&Tiles(PhantomData));
        // SAFETY: the registers were set up above.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
        result
    }

    /// `y = x w`, or `y += x w` if `keep`: sixteen rows of 48 sums, `stride` floats apart, over `steps` steps, at least one,
    /// of sixteen pairs. The weights lie pair by pair, 48 words for each.
    pub(crate) fn product(&self, steps: usize, x: Lines<'_>, w: &[u32], y: &mut [f32], stride: usize, keep: bool) {
        let last = (HIGH - 1) * x.line + (steps.max(1) - 1) * x.step + DEEP;
        assert!(steps > 0 && x.words.len() >= last && w.len() >= steps * DEEP * PANEL, "the operands are there");
        assert!(stride >= PANEL && y.len() >= (HIGH - 1) * stride + PANEL, "sixteen rows of sums");
        let (line, x_step) = (4 * x.line, 4 * x.step);
        let (x, w, y) = (x.words.as_ptr(), w.as_ptr(), y.as_mut_ptr());
        // SAFETY: the assertions cover all that is read and written; the registers are set up while `self` is alive.
        unsafe {
            if keep {
                asm!(
                    "tileloadd tmm0, [{y} + {stride}]",
                    "tileloadd tmm1, [{y} + {stride} + 64]",
                    "tileloadd tmm2, [{y} + {stride} + 128]",
                    y = in(reg) y, stride = in(reg) 4 * stride,
                    options(nostack, readonly),
                );
            } else {
                asm!("tilezero tmm0", "tilezero tmm1", "tilezero tmm2", options(nostack, nomem));
            }
            asm!(
                "2:",
                "tileloadd tmm3, [{x} + {line}]",
                "tileloadd tmm4, [{w} + {panel}]",
                "tileloadd tmm5, [{w} + {panel} + 64]",
                "tileloadd tmm6, [{w} + {panel} + 128]",
                "tdpbf16ps tmm0, tmm3, tmm4",
                "tdpbf16ps tmm1, tmm3, tmm5",
                "tdpbf16ps tmm2, tmm3, tmm6",
                "add {x}, {x_step}",
                "add {w}, {w_step}",
                "dec {steps}",
                "jnz 2b",
                "tilestored [{y} + {stride}], tmm0",
                "tilestored [{y} + {stride} + 64], tmm1",
                "tilestored [{y} + {stride} + 128], tmm2",
                x = inout(reg) x => _,
                w = inout(reg) w => _,
                steps = inout(reg) steps => _,
                y = in(reg) y,
                stride = in(reg) 4 * stride,
                line = in(reg) line,
                panel = in(reg) 4 * PANEL,
                x_step = in(reg) x_step,
                w_step = const 4 * DEEP * PANEL,
                options(nostack),
            );
        }
    }
}

/// Rows of bfloat16 pairs, the left operand of [`Tiles::product`].
#[derive(Clone, Copy)]
pub(crate) struct Lines<'a> {
    /// The first tile and all behind it.
    pub words: &'a [u32],
    /// From one row of a tile to the next, in words.
    pub line: usize,
    /// From one tile to the next, in words.
    pub step: usize,
}

impl<'a> Lines<'a> {
    /// Tiles that lie one behind the other.
    pub(crate) fn packed(words: &'a [u32]) -> Self {
        Lines { words, line: DEEP, step: TILE }
    }
}

/// The instructions. Rows are packed `(panel, step, row, pair)`.
pub(super) struct Amx;

impl Kernel for Amx {
    const ROWS: usize = HIGH;
    const TASK_ROWS: usize = 16;
    const PAIRS: usize = DEEP;

    fn place(row: &[u32], r: usize, panel: &mut [u32]) {
        for (tile, line) in panel.chunks_exact_mut(TILE).zip(row.chunks_exact(DEEP)) {
            tile[r * DEEP..][..DEEP].copy_from_slice(line);
        }
    }

    unsafe fn times(p: &Panel<'_>, packed: &[u32], from: usize, to: usize) {
        let (steps, whole) = (p.pairs.div_ceil(DEEP), p.pairs / DEEP);
        scratch::<f32, _>((to - from) * HIGH * PANEL, |sums| {
            if steps == 0 {
                sums.fill(0.0);
            }
            scratch::<u32, _>(DEEP * PANEL, |last| {
                // A step that is not filled by inputs is filled up with zeros.
                let rest = &p.weights[whole * DEEP * PANEL..];
                last[..rest.len()].copy_from_slice(rest);
                last[rest.len()..].fill(0);
                let multiply = |tiles: &Tiles| {
                    for start in (0..steps).step_by(BLOCK) {
                        let end = (start + BLOCK).min(steps);
                        let full = end.min(whole) - start;
                        for (i, y) in (from..to).zip(sums.chunks_exact_mut(HIGH * PANEL)) {
                            let x = &packed[(i * steps + start) * TILE..][..(end - start) * TILE];
                            if full > 0 {
                                let w = &p.weights[start * DEEP * PANEL..];
                                tiles.product(full, Lines::packed(x), w, y, PANEL, start > 0);
                            }
                            if start + full < end {
                                tiles.product(1, Lines::packed(&x[full * TILE..]), last, y, PANEL, start + full > 0);
                            }
                        }
                    }
                };
                // SAFETY: passed on to the caller.
                unsafe { Tiles::lend(multiply) };
            });
            for (r, row) in sums.chunks_exact(PANEL).enumerate().take(p.m - from * HIGH) {
                put(p, from * HIGH + r, row);
            }
        });
    }
}

/// Writes one row of sums.
fn put(p: &Panel<'_>, row: usize, sums: &[f32]) {
    let column = p.panel * PANEL;
    let width = PANEL.min(p.n - column);
    let (at, sums) = (row * p.n + column, &sums[..width]);
    let mut total = [0.0f32; PANEL];
    let total = &mut total[..width];
    match p.bias {
        Some(bias) => {
            let both = sums.iter().zip(&bias[column..column + width]);
            total.iter_mut().zip(both).for_each(|(total, (sum, bias))| *total = sum + bias);
        }
        None => total.copy_from_slice(sums),
    }
    match p.y {
        // SAFETY: these columns are this task's alone.
        Out::F32(y) => unsafe { y.part(at, width) }.copy_from_slice(total),
        // SAFETY: as above.
        Out::Bf16(y) => cast::f32_to_bf16(total, unsafe { y.part(at, width) }),
    }
}
