use super::*;

fn wal(length: usize) -> Bytes {
    Bytes::from(vec![7; length])
}

#[test]
fn keeps_what_fits_and_gives_slices() {
    let mut window = Window::new(Lsn(100), 30);
    window.push(Bytes::from_static(b"0123456789"), Lsn(0));
    window.push(Bytes::new(), Lsn(0));
    window.push(Bytes::from_static(b"abcdefghij"), Lsn(0));
    assert_eq!((window.start(), window.end()), (Lsn(100), Lsn(120)));
    assert_eq!(window.get(Lsn(103), 4).unwrap(), "3456");
    assert_eq!(window.get(Lsn(108), 100).unwrap(), "89", "a slice never spans pieces");
    assert_eq!(window.get(Lsn(110), 100).unwrap(), "abcdefghij");
    assert_eq!(window.get(Lsn(120), 1), None);
    assert_eq!(window.get(Lsn(99), 1), None);
}

#[test]
fn drops_the_oldest_pieces_only_when_the_rest_fills_the_capacity() {
    let mut window = Window::new(Lsn(0), 30);
    for _ in 0..4 {
        window.push(wal(10), Lsn(1000));
    }
    assert_eq!((window.start(), window.end()), (Lsn(10), Lsn(40)));
    window.push(wal(25), Lsn(1000));
    assert_eq!((window.start(), window.end()), (Lsn(30), Lsn(65)));
    assert_eq!(window.get(Lsn(29), 1), None);
    window.push(wal(100), Lsn(1000));
    assert_eq!(window.start(), Lsn(65), "a piece larger than the capacity stays alone");
}

#[test]
fn what_is_needed_stays_whatever_its_size() {
    let mut window = Window::new(Lsn(0), 30);
    for _ in 0..6 {
        window.push(wal(10), Lsn(15));
    }
    assert_eq!((window.start(), window.end()), (Lsn(10), Lsn(60)));
    assert_eq!(window.get(Lsn(15), 5).unwrap().len(), 5);
    window.push(wal(10), Lsn(60));
    assert_eq!((window.start(), window.end()), (Lsn(40), Lsn(70)));
}

#[test]
fn room_is_measured_from_what_is_still_needed() {
    let mut window = Window::new(Lsn(0), 30);
    window.push(wal(20), Lsn(0));
    assert!(window.has_room(Lsn(0), 10));
    assert!(!window.has_room(Lsn(0), 11));
    assert!(window.has_room(Lsn(15), 25));
    assert!(window.has_room(Lsn(1000), 30));
}
