//! Large pages for large tables.
//!
//! A random access to a table of more pages than the processor's address cache holds costs a walk through the page
//! tables, which takes longer than the access itself. Large tables therefore ask the kernel for large pages.

/// Size of a large page on most processors, in bytes. If large pages are larger, the kernel rounds.
pub(super) const LARGE_PAGE_BYTES: usize = 2 << 20;

/// Minimum size of a table for which large pages are requested, in bytes.
const LARGE_TABLE_BYTES: usize = 4 << 20;

/// Returns an empty vector with room for `capacity` items, in large pages if it is large.
pub(super) fn vec_with_capacity<T>(capacity: usize) -> Vec<T> {
    let items: Vec<T> = Vec::with_capacity(capacity);
    if capacity.saturating_mul(size_of::<T>()) >= LARGE_TABLE_BYTES {
        // The advice must come before the first write: a page that is in use keeps its size.
        advise_large_pages(items.as_ptr().cast(), items.capacity() * size_of::<T>());
    }
    items
}

/// Asks for large pages in a range of memory that the caller has allocated.
#[cfg(all(target_os = "linux", feature = "_io"))]
pub(super) fn advise_large_pages(start: *const u8, bytes: usize) {
    let Some((first, len)) = whole_pages(start, bytes) else { return };
    // SAFETY: the range lies within the caller's allocation, and the advice changes no content.
    let advised = unsafe { rustix::mm::madvise(first.cast(), len, rustix::mm::Advice::LinuxHugepage) };
    if let Err(e) = advised {
        log::trace!("no large pages: {e}");
    }
}

/// Large pages are requested on Linux only.
#[cfg(not(all(target_os = "linux", feature = "_io")))]
pub(super) fn advise_large_pages(_start: *const u8, _bytes: usize) {}

/// Returns the pages of a range to the system before its allocation is freed, so that freeing it later is quick. The
/// content of the range is unspecified afterwards: any of the items may have become zero.
#[cfg(all(target_os = "linux", feature = "_io"))]
pub(super) fn discard(items: &mut [[u32; 2]]) {
    let Some((first, len)) = whole_pages(items.as_ptr().cast(), size_of_val(items)) else { return };
    // SAFETY: the range is borrowed exclusively, and plain numbers are valid with any content.
    let discarded = unsafe { rustix::mm::madvise(first.cast(), len, rustix::mm::Advice::LinuxDontNeed) };
    if let Err(e) = discarded {
        log::trace!("pages not given back early: {e}");
    }
}

/// Pages are discarded early on Linux only.
#[cfg(not(all(target_os = "linux", feature = "_io")))]
pub(super) fn discard(_items: &mut [[u32; 2]]) {}

/// Returns the part of a range that consists of whole large pages: its start and its length in bytes.
#[cfg(all(target_os = "linux", feature = "_io"))]
fn whole_pages(start: *const u8, bytes: usize) -> Option<(*mut u8, usize)> {
    let address = start as usize;
    let first = address.next_multiple_of(LARGE_PAGE_BYTES);
    let end = (address + bytes) / LARGE_PAGE_BYTES * LARGE_PAGE_BYTES;
    (first < end).then(|| (start.wrapping_byte_add(first - address).cast_mut(), end - first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_every_size_have_room() {
        for capacity in [0_usize, 10, LARGE_TABLE_BYTES / 8, 3 * LARGE_TABLE_BYTES / 8] {
            let mut items: Vec<[u32; 2]> = vec_with_capacity(capacity);
            assert!(items.is_empty() && items.capacity() >= capacity);
            items.resize(capacity, [7, 7]);
            discard(&mut items);
            assert!(items.iter().all(|item| *item == [7, 7] || *item == [0, 0]));
        }
    }
}
