//! Memory that is written before it is read, and scratch that is used again.
//!
//! Zeroing a fresh buffer touches every page once more than needed; for activations of a few megabytes
//! that costs as much as the arithmetic.

use std::cell::RefCell;

/// Plain numbers: every bit pattern is a value.
pub(crate) trait Plain: Copy + Send + Sync + 'static {}
impl Plain for f32 {}
impl Plain for f64 {}
impl Plain for u8 {}
impl Plain for u32 {}
impl Plain for half::bf16 {}

/// A vector of `n` numbers filled by `write`, which must write every element before reading it.
#[allow(clippy::uninit_vec)]
pub(crate) fn filled<T: Plain, R>(n: usize, write: impl FnOnce(&mut [T]) -> R) -> (Vec<T>, R) {
    let mut v = Vec::with_capacity(n);
    // SAFETY: the capacity is `n`, `T` has no invalid bit patterns and no drop, and every caller in this
    // crate writes each element before any is read.
    unsafe { v.set_len(n) };
    let r = write(&mut v);
    (v, r)
}

thread_local! {
    static SCRATCH: RefCell<Vec<Vec<u64>>> = const { RefCell::new(Vec::new()) };
}

/// Lends `n` numbers of this thread's scratch memory, 64-byte aligned, with unspecified contents.
///
/// Nested calls get different memory; the memory goes back to the thread when `work` returns.
pub(crate) fn scratch<T: Plain, R>(n: usize, work: impl FnOnce(&mut [T]) -> R) -> R {
    const LINE: usize = 64;
    let words = (n * size_of::<T>()).div_ceil(8) + LINE / 8;
    let mut store = SCRATCH.with(|s| s.borrow_mut().pop()).unwrap_or_default();
    if store.len() < words {
        store = vec![0; words];
    }
    let start = store.as_ptr().align_offset(LINE);
    let bytes = &mut store[start..];
    // SAFETY: `start` leaves at least `n` elements of `T` in the allocation, aligned to a cache line (which
    // is at least the alignment of `T`); the words are initialised and `T` has no invalid bit patterns.
    let slice = unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast::<T>(), n) };
    let r = work(slice);
    SCRATCH.with(|s| s.borrow_mut().push(store));
    r
}

/// A slice that several threads write at places that do not overlap.
#[derive(Clone, Copy)]
pub(crate) struct Shared<T> {
    start: *mut T,
    len: usize,
}

// SAFETY: the only access is `part`, whose callers promise that parts of different threads do not overlap.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    pub(crate) fn new(slice: &mut [T]) -> Self {
        Shared { start: slice.as_mut_ptr(), len: slice.len() }
    }

    /// The elements `at..at + len`.
    ///
    /// # Safety
    /// The slice given to `new` outlives the result, and no two parts alive at once overlap.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn part<'a>(&self, at: usize, len: usize) -> &'a mut [T] {
        assert!(at + len <= self.len, "part of a shared slice is inside it");
        // SAFETY: in bounds by the assertion; exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_scratch_does_not_overlap() {
        scratch::<f32, _>(100, |a| {
            a.fill(1.0);
            scratch::<f32, _>(100, |b| b.fill(2.0));
            assert!(a.iter().all(|v| *v == 1.0));
            assert_eq!(a.as_ptr() as usize % 64, 0);
        });
    }
}
