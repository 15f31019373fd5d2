//! Memory for large tables that are looked at here and there.
//!
//! Every look at another page of memory costs a walk through the page tables, which is more than the look itself
//! where a table has more pages than the processor remembers. Large tables ask for large pages.

/// From this size on, in bytes, a table asks for large pages.
const LARGE: usize = 4 << 20;

/// Makes room for `capacity` items in all, moving those that are there.
pub(super) fn grow<T>(items: &mut Vec<T>, capacity: usize) {
    if capacity.saturating_mul(size_of::<T>()) < LARGE {
        return items.reserve_exact(capacity.saturating_sub(items.len()));
    }
    // Before anything is written there: a page that is in use stays as large as it is.
    let mut larger = Vec::with_capacity(capacity);
    ask_for_large_pages(&larger);
    larger.append(items);
    *items = larger;
}

#[cfg(all(target_os = "linux", feature = "_io"))]
fn ask_for_large_pages<T>(items: &Vec<T>) {
    /// Of most processors; where large pages are larger still, the kernel rounds.
    const PAGE: usize = 2 << 20;
    let start = items.as_ptr() as usize;
    let end = start + items.capacity() * size_of::<T>();
    let (first, last) = (start.next_multiple_of(PAGE), end / PAGE * PAGE);
    if first < last {
        let place = items.as_ptr().wrapping_byte_add(first - start).cast_mut().cast();
        let advice = rustix::mm::Advice::LinuxHugepage;
        // SAFETY: the range is within what `items` owns, and the advice changes nothing that a program can see.
        let advised = unsafe { rustix::mm::madvise(place, last - first, advice) };
        if let Err(e) = advised {
            log::trace!("no large pages: {e}");
        }
    }
}

#[cfg(not(all(target_os = "linux", feature = "_io")))]
fn ask_for_large_pages<T>(_items: &Vec<T>) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_and_large_tables_keep_what_they_have() {
        for count in [0_usize, 10, 100_000] {
            let mut items: Vec<u64> = (0..count as u64).collect();
            for capacity in [0, count + 1, 2 * LARGE / 8] {
                grow(&mut items, capacity);
                assert!(items.capacity() >= capacity.max(count));
                assert!(items.iter().copied().eq(0..count as u64));
            }
        }
    }
}
