//! What is appended, dropped and written, also against a plain list of frames.

use super::*;

fn content(queue: &WriteQueue) -> Vec<u8> {
    queue.content()
}

#[test]
fn frames_are_counted_as_they_leave() {
    let mut queue = WriteQueue::default();
    queue.push(|out| out.extend_from_slice(b"12345"));
    queue.push_kept(|out| out.extend_from_slice(b"ack"));
    queue.push_with(|out| out.extend_from_slice(b"head"), Bytes::from(vec![7; LARGE_PAYLOAD]), false);
    assert_eq!((queue.frames(), queue.bytes()), (3, 12 + LARGE_PAYLOAD));
    queue.consume(6);
    assert_eq!((queue.frames(), queue.bytes()), (2, 6 + LARGE_PAYLOAD));
    queue.consume(2);
    assert_eq!(queue.frames(), 1);
    queue.consume(4 + 100);
    assert_eq!((queue.frames(), queue.bytes()), (1, LARGE_PAYLOAD - 100));
    queue.consume(LARGE_PAYLOAD - 100);
    assert!(queue.is_empty());
    assert_eq!(queue.frames(), 0);
}

#[test]
fn the_oldest_whole_droppable_frame_goes() {
    let mut queue = WriteQueue::default();
    queue.push(|out| out.extend_from_slice(b"aaaa"));
    queue.push_kept(|out| out.extend_from_slice(b"ACK"));
    queue.push_with(|out| out.extend_from_slice(b"H"), Bytes::from(vec![b'x'; LARGE_PAYLOAD]), false);
    queue.push(|out| out.extend_from_slice(b"bb"));
    queue.consume(1);
    assert_eq!(queue.drop_oldest().unwrap()[0].len(), LARGE_PAYLOAD);
    assert_eq!(content(&queue), b"aaaACKbb");
    assert!(queue.drop_oldest().is_some());
    assert_eq!(queue.drop_oldest(), None);
    assert_eq!(content(&queue), b"aaaACK");
    assert_eq!((queue.frames(), queue.bytes()), (2, 6));
    queue.consume(3);
    queue.push(|out| out.extend_from_slice(b"cc"));
    assert!(queue.drop_oldest().is_some());
    assert_eq!(content(&queue), b"ACK");
}

#[test]
fn frames_in_one_piece_are_taken_or_copied() {
    let piece = |byte: u8| vec![byte; WORTH_TAKING];
    let lens = [100, WORTH_TAKING as u64 - 100];
    let mut queue = WriteQueue::default();
    let mut frames = piece(b'a');
    queue.push_all_taking(&mut frames, &lens);
    assert_eq!((frames.len(), queue.frames(), queue.bytes()), (0, 2, WORTH_TAKING));
    let mut frames = piece(b'b');
    queue.push_all_taking(&mut frames, &lens);
    assert_eq!((frames, queue.frames(), queue.bytes()), (piece(b'b'), 4, 2 * WORTH_TAKING));
    assert_eq!(content(&queue), [piece(b'a'), piece(b'b')].concat());
    // Partly written, and some of it dropped.
    queue.consume(50);
    assert!(queue.drop_oldest().is_some());
    assert_eq!(content(&queue), [&[b'a'; 50][..], &piece(b'b')].concat());
    queue.consume(50 + WORTH_TAKING);
    assert!(queue.is_empty());
    let mut frames = piece(b'c');
    queue.push_all_taking(&mut frames, &lens);
    // The buffer that was emptied comes back.
    assert!(frames.is_empty() && frames.capacity() >= WORTH_TAKING);
    queue.push(|out| out.extend_from_slice(b"d"));
    assert_eq!(content(&queue), [&piece(b'c')[..], b"d"].concat());
    let mut few = b"e".to_vec();
    let mut queue = WriteQueue::default();
    queue.push_all_taking(&mut few, &[1]);
    assert_eq!((few, content(&queue)), (b"e".to_vec(), b"e".to_vec()));
}

proptest::proptest! {
    /// Against a plain list of frames, whatever is appended, written and dropped in between.
    #[test]
    fn drops_and_writes_like_a_list(steps in proptest::collection::vec((0_u8..7, 1_usize..40), 1..120)) {
        let mut queue = WriteQueue::default();
        let mut model: VecDeque<(bool, Vec<u8>)> = VecDeque::new();
        let mut begun = false;
        for (number, (action, size)) in steps.into_iter().enumerate() {
            let frame = vec![number as u8; size];
            match action {
                0 => queue.push(|out| out.extend_from_slice(&frame)),
                1 => queue.push_kept(|out| out.extend_from_slice(&frame)),
                2 | 3 => {
                    let payload = vec![number as u8; LARGE_PAYLOAD + size];
                    let shared = Bytes::from(payload.clone());
                    queue.push_with(|out| out.extend_from_slice(&frame), shared, action == 2);
                    model.push_back((action == 2, [frame.clone(), payload].concat()));
                }
                // Several frames in one piece, shared or not.
                6 => {
                    let lens = [size, size * size, LARGE_PAYLOAD - 40 + size];
                    let frames = lens.map(|len| vec![number as u8; len]);
                    queue.push_all_shared(frames.concat().into(), &lens.map(|len| len as u64));
                    model.extend(frames.map(|frame| (false, frame)));
                }
                4 => {
                    let mut n = (size * size * 7).min(queue.bytes());
                    queue.consume(n);
                    while let Some((_, front)) = model.front_mut().filter(|_| n > 0) {
                        let taken = n.min(front.len());
                        begun = taken < front.len();
                        front.drain(..taken);
                        n -= taken;
                        if front.is_empty() {
                            model.pop_front();
                        }
                    }
                }
                _ => {
                    let first = usize::from(begun);
                    let oldest = (first..model.len()).find(|at| !model[*at].0);
                    proptest::prop_assert_eq!(queue.drop_oldest().is_some(), oldest.is_some());
                    oldest.map(|at| model.remove(at));
                }
            }
            if action < 2 {
                model.push_back((action == 1, frame));
            }
            let wanted = model.iter().map(|(_, frame)| &frame[..]).collect::<Vec<_>>().concat();
            proptest::prop_assert_eq!(content(&queue), wanted);
            proptest::prop_assert_eq!((queue.frames(), queue.is_empty()), (model.len(), model.is_empty()));
        }
    }
}
