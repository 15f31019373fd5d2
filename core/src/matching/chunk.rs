//! A block of memory for items, aligned so that a full-sized block fits one large page.

use super::memory::{self, LARGE_PAGE_BYTES};
use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// A vector of at most 2 MiB whose allocation is aligned to a large page when it takes all of it.
///
/// Half the size of a `Vec`: a table of chunks stays in the processor's fastest cache.
pub(super) struct Chunk<T> {
    items: NonNull<T>,
    len: u32,
    capacity: u32,
    owns: PhantomData<T>,
}

// SAFETY: a chunk owns its items like a vector, and shares nothing.
unsafe impl<T: Send> Send for Chunk<T> {}
// SAFETY: a shared chunk gives out shared items only.
unsafe impl<T: Sync> Sync for Chunk<T> {}

impl<T> Default for Chunk<T> {
    fn default() -> Self {
        Chunk { items: NonNull::dangling(), len: 0, capacity: 0, owns: PhantomData }
    }
}

impl<T> Chunk<T> {
    /// Maximum number of items of a chunk: a power of two that takes at most 2 MiB.
    pub(super) const MOST: usize = 1 << (LARGE_PAGE_BYTES / size_of::<T>()).ilog2();

    pub(super) fn capacity(&self) -> usize {
        self.capacity as usize
    }

    /// Appends an item. The caller must have made room for it with [`grow`](Self::grow).
    pub(super) fn push(&mut self, item: T) {
        assert!(self.len < self.capacity, "a full chunk");
        // SAFETY: `len` is below `capacity`, so the place lies within the allocation and holds no item.
        unsafe { self.items.add(self.len as usize).write(item) };
        self.len += 1;
    }

    /// Makes room for `capacity` items in total, at most [`MOST`](Self::MOST). Copies the existing items.
    pub(super) fn grow(&mut self, capacity: usize) {
        let capacity = capacity.clamp(1, Self::MOST);
        if capacity <= self.capacity() {
            return;
        }
        let layout = Self::layout(capacity);
        // SAFETY: the layout has a size above zero: the capacity is, and `T` has a size (see `layout`).
        let Some(items) = NonNull::new(unsafe { alloc(layout) }) else { handle_alloc_error(layout) };
        if layout.size() == LARGE_PAGE_BYTES {
            memory::advise_large_pages(items.as_ptr(), layout.size());
        }
        let items = items.cast::<T>();
        super::work::add(self.len as usize);
        // SAFETY: `len` items are in the old allocation, the new one is larger, and they are different allocations.
        // The copies replace the originals, which are not dropped.
        unsafe { self.items.copy_to_nonoverlapping(items, self.len as usize) };
        self.free();
        self.items = items;
        self.capacity = capacity as u32;
    }

    /// Drops all items and keeps the memory.
    pub(super) fn clear(&mut self) {
        let items: *mut [T] = &raw mut **self;
        self.len = 0;
        // SAFETY: the items were initialised, and with a length of zero nothing refers to them any more.
        unsafe { items.drop_in_place() };
    }

    fn layout(capacity: usize) -> Layout {
        const { assert!(size_of::<T>() > 0 && size_of::<T>() <= LARGE_PAGE_BYTES) };
        match Layout::array::<T>(capacity) {
            Ok(layout) if layout.size() == LARGE_PAGE_BYTES => {
                layout.align_to(LARGE_PAGE_BYTES).unwrap_or(layout)
            }
            Ok(layout) => layout,
            // At most 2 MiB.
            Err(_) => unreachable!("a chunk above its largest size"),
        }
    }

    /// Frees the allocation without dropping items.
    fn free(&mut self) {
        if self.capacity > 0 {
            // SAFETY: `items` was allocated with this layout, which depends on the capacity only.
            unsafe { dealloc(self.items.as_ptr().cast(), Self::layout(self.capacity())) };
            self.capacity = 0;
        }
    }
}

impl<T> Deref for Chunk<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: the first `len` items are initialised; the pointer is dangling only while `len` is zero.
        unsafe { std::slice::from_raw_parts(self.items.as_ptr(), self.len as usize) }
    }
}

impl<T> DerefMut for Chunk<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and the chunk is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.items.as_ptr(), self.len as usize) }
    }
}

impl<T> Drop for Chunk<T> {
    fn drop(&mut self) {
        self.clear();
        self.free();
    }
}

impl<T> fmt::Debug for Chunk<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chunk({} of {})", self.len, self.capacity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;

    #[test]
    fn items_move_and_are_dropped_once() {
        let item = Rc::new(());
        let mut chunk = Chunk::default();
        for n in 0..1000 {
            if chunk.len() == chunk.capacity() {
                chunk.grow(n * 2);
            }
            chunk.push(item.clone());
        }
        assert_eq!((chunk.len(), Rc::strong_count(&item)), (1000, 1001));
        chunk.clear();
        assert_eq!((chunk.len(), Rc::strong_count(&item)), (0, 1));
        chunk.push(item.clone());
        drop(chunk);
        assert_eq!(Rc::strong_count(&item), 1);
    }

    #[test]
    fn a_full_sized_chunk_is_one_large_page() {
        assert_eq!((Chunk::<[u64; 8]>::MOST, Chunk::<[u64; 3]>::MOST), (32_768, 65_536));
        let mut chunk = Chunk::<[u64; 8]>::default();
        chunk.grow(usize::MAX);
        assert_eq!(chunk.capacity(), 32_768);
        assert_eq!(chunk.as_ptr() as usize % LARGE_PAGE_BYTES, 0);
    }
}
