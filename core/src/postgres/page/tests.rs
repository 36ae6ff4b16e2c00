use super::*;
use proptest::prelude::*;

fn page_with(lengths: &[usize]) -> PageBytes {
    let mut bytes = [0; PAGE_BYTES];
    let mut page = Page::new(&mut bytes);
    page.init(16);
    for (index, &len) in lengths.iter().enumerate() {
        page.append_item(&vec![index as u8 + 1; len]).unwrap();
    }
    bytes
}

fn tuples(page: &Page<'_>) -> Vec<u8> {
    (1..=page.max_offset()).map(|offset| page.bytes()[page.item(offset).unwrap().0]).collect()
}

#[test]
fn tuples_grow_down_and_pointers_up() {
    let mut bytes = page_with(&[16, 20, 8]);
    let page = Page::new(&mut bytes);
    assert_eq!((page.lower(), page.upper(), page.special()), (36, 8176 - 16 - 24 - 8, 8176));
    assert_eq!(page.item(2), Ok((8176 - 16 - 24, 20)));
    assert_eq!(page.special_space(16), Ok(8176));
    assert!(page.special_space(8).is_err());
}

#[test]
fn an_insert_moves_later_pointers() {
    let mut bytes = page_with(&[16, 16, 16]);
    let mut page = Page::new(&mut bytes);
    page.insert_item(2, &[9; 16]).unwrap();
    assert_eq!(tuples(&page), [1, 9, 2, 3]);
    assert!(page.insert_item(6, &[9; 16]).is_err());
    assert!(page.insert_item(0, &[9; 16]).is_err());
    assert!(page.insert_item(1, &[9; 8190]).is_err());
}

#[test]
fn two_deletions_and_three_leave_different_bytes() {
    let mut bytes = page_with(&[16, 24, 32, 40]);
    let mut page = Page::new(&mut bytes);
    page.insert_item(1, &[9; 8]).unwrap();
    let mut one_by_one = *page.bytes();
    Page::new(&mut one_by_one).delete_items(&[2, 0, 4, 0]).unwrap();
    let one_by_one = Page::new(&mut one_by_one);
    assert_eq!(tuples(&one_by_one), [9, 2, 4]);
    assert_eq!(one_by_one.item(1).unwrap().0, one_by_one.upper(), "last added stays lowest");

    page.delete_items(&[2, 0, 3, 0, 4, 0]).unwrap();
    assert_eq!(tuples(&page), [9, 4]);
    assert_eq!(page.item(1).unwrap().0, 8176 - 8, "rebuilt in line-pointer order");
    assert!(page.delete_items(&[2, 0, 1, 0, 3, 0]).is_err());
}

#[test]
fn overwriting_moves_only_what_lies_below() {
    let mut bytes = page_with(&[16, 24, 32]);
    let mut page = Page::new(&mut bytes);
    page.overwrite_item(2, &[9; 8]).unwrap();
    assert_eq!(page.item(1), Ok((8176 - 16, 16)));
    assert_eq!(page.item(2), Ok((8176 - 24, 8)));
    assert_eq!(page.item(3), Ok((8176 - 56, 32)));
    page.overwrite_item(2, &[8; 40]).unwrap();
    assert_eq!(page.item(3), Ok((8176 - 16 - 40 - 32, 32)));
    assert_eq!(tuples(&page), [1, 8, 3]);
}

#[test]
fn in_place_deletion_keeps_offsets() {
    let mut bytes = page_with(&[16, 24, 32]);
    let mut page = Page::new(&mut bytes);
    page.delete_item_in_place(1).unwrap();
    assert_eq!(page.pointer(1), Ok(LinePointer::NONE));
    assert_eq!(page.item(3), Ok((8176 - 56, 32)));
    page.delete_item_in_place(3).unwrap();
    assert_eq!(page.max_offset(), 2);
}

#[test]
fn unused_pointers_are_cut_off_the_end() {
    let mut bytes = page_with(&[16, 16, 16]);
    let mut page = Page::new(&mut bytes);
    page.set_pointer(1, LinePointer::NONE).unwrap();
    page.set_pointer(3, LinePointer::NONE).unwrap();
    let mut repaired = *page.bytes();
    let mut repaired = Page::new(&mut repaired);
    repaired.repair_fragmentation().unwrap();
    assert_eq!(
        (repaired.max_offset(), repaired.upper(), repaired.flags()),
        (2, 8160, HAS_FREE_LINES)
    );

    page.set_pointer(2, LinePointer::NONE).unwrap();
    page.truncate_pointers().unwrap();
    assert_eq!((page.max_offset(), page.upper(), page.flags()), (1, 8128, HAS_FREE_LINES));
    page.repair_fragmentation().unwrap();
    assert_eq!((page.max_offset(), page.upper(), page.flags()), (0, 8176, 0));
}

#[test]
fn offsets_outside_the_page_have_no_line_pointer() {
    let mut bytes = page_with(&[16, 16, 16]);
    let mut page = Page::new(&mut bytes);
    // The last is what a record gives that names the line pointer before the first.
    for offset in [0, 4, 1 << 20, usize::MAX] {
        assert!(page.pointer(offset).is_err(), "{offset}");
        assert!(page.normal_item(offset, 1).is_err(), "{offset}");
        assert!(page.set_pointer(offset, LinePointer::NONE).is_err(), "{offset}");
    }
}

proptest! {
    #[test]
    fn nothing_panics_on_any_page(
        header in proptest::collection::vec(any::<u8>(), 200),
        lower in 0usize..300,
        offset in 0usize..80,
        tuple in proptest::collection::vec(any::<u8>(), 0..64),
        offsets in proptest::collection::vec(0u8..60, 0..10),
    ) {
        let mut bytes = [0; PAGE_BYTES];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = header[index % header.len()];
        }
        for valid in [false, true] {
            if valid {
                Page::new(&mut bytes).init(16);
                Page::new(&mut bytes).set_lower(lower);
            }
            for operation in 0..9 {
                let mut copy = bytes;
                let mut page = Page::new(&mut copy);
                let _ = match operation {
                    0 => page.insert_item(offset, &tuple),
                    1 => page.delete_item(offset),
                    2 => page.delete_item_in_place(offset),
                    3 => page.delete_items(&offsets),
                    4 => page.overwrite_item(offset, &tuple),
                    5 => page.repair_fragmentation(),
                    6 => page.truncate_pointers(),
                    7 => page.add_heap_item(offset, tuple.len()).map(|_| ()),
                    _ => page.normal_item(offset, 23).map(|_| ()),
                };
            }
        }
    }
}

/// What a line pointer of a page to be compacted is.
#[derive(Debug, Clone, Copy)]
enum Line {
    /// With a tuple: its length, its place among the tuples, and how many free 8 bytes are above it.
    Tuple {
        len: usize,
        rank: u8,
        gap: usize,
    },
    Other(LinePointer),
}

fn line() -> impl Strategy<Value = Line> {
    let tuple = (1usize..100, any::<u8>(), prop_oneof![4 => Just(0usize), 1 => 1usize..5]);
    let other = [LinePointer::NONE, LinePointer::dead(), LinePointer::redirect(3)];
    prop_oneof![
        3 => tuple.prop_map(|(len, rank, gap)| Line::Tuple { len, rank, gap }),
        1 => proptest::sample::select(other.to_vec()).prop_map(Line::Other),
    ]
}

/// A page with these lines; their tuples lie in the order of the lines, or of their ranks.
fn page_of(lines: &[Line], ranked: bool) -> PageBytes {
    let mut bytes = [0; PAGE_BYTES];
    let mut page = Page::new(&mut bytes);
    page.init(16);
    page.set_lower(HEADER_BYTES + 4 * lines.len());
    let mut order: Vec<usize> = (0..lines.len()).collect();
    if ranked {
        order.sort_by_key(|&index| match lines[index] {
            Line::Tuple { rank, .. } => rank,
            Line::Other(_) => 0,
        });
    }
    for index in order {
        let pointer = match lines[index] {
            Line::Other(pointer) => pointer,
            Line::Tuple { len, gap, .. } => {
                let start = page.upper() - len.next_multiple_of(8) - 8 * gap;
                page.put(start, &vec![index as u8 + 1; len.next_multiple_of(8)]).unwrap();
                page.set_upper(start);
                LinePointer::normal(start, len)
            }
        };
        page.set_pointer(index + 1, pointer).unwrap();
    }
    bytes
}

proptest! {
    #[test]
    fn compaction_lays_tuples_out_in_the_order_of_their_lines(
        lines in proptest::collection::vec(line(), 1..60),
        ranked in any::<bool>(),
    ) {
        let mut bytes = page_of(&lines, ranked);
        let mut page = Page::new(&mut bytes);
        page.repair_fragmentation().unwrap();
        let mut upper = page.special();
        for (index, line) in lines.iter().enumerate().take(page.max_offset()) {
            let expected = match *line {
                Line::Other(pointer) => pointer,
                Line::Tuple { len, .. } => {
                    let end = upper;
                    upper -= len.next_multiple_of(8);
                    let tuple = page.slice(upper, end - upper).unwrap();
                    prop_assert!(tuple.iter().all(|&byte| byte == index as u8 + 1), "tuple {index}");
                    LinePointer::normal(upper, len)
                }
            };
            prop_assert_eq!(page.pointer(index + 1), Ok(expected));
        }
        prop_assert_eq!(page.upper(), upper);
        let cut = lines[page.max_offset()..].iter();
        prop_assert!(cut.into_iter().all(|line| matches!(line, Line::Other(LinePointer::NONE))));
    }
}
