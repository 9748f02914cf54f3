//! Finding bytes fast in long bodies. Knows no format.

/// The first byte that is wanted. Whole blocks are tested without a branch, which compilers turn into vector instructions.
pub(super) fn find(bytes: &[u8], wanted: impl Fn(u8) -> bool) -> Option<usize> {
    let (blocks, _) = bytes.as_chunks::<32>();
    let clean = blocks.iter().take_while(|block| !block.iter().fold(false, |any, byte| any | wanted(*byte)));
    let start = clean.count() * 32;
    bytes[start..].iter().position(|byte| wanted(*byte)).map(|at| start + at)
}

/// Where `text`, which is not empty, first stands.
pub(super) fn find_text(bytes: &[u8], text: &[u8]) -> Option<usize> {
    let mut start = 0;
    loop {
        start += find(&bytes[start..], |byte| byte == text[0])?;
        if bytes[start..].starts_with(text) {
            return Some(start);
        }
        start += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_is_found_wherever_it_stands() {
        for length in 0..100 {
            assert_eq!(find(&vec![b'a'; length], |byte| byte == b'b'), None);
            for at in 0..length {
                let mut bytes = vec![b'a'; length];
                bytes[at..].fill(b'b');
                assert_eq!(find(&bytes, |byte| byte == b'b'), Some(at));
            }
        }
    }

    #[test]
    fn a_text_is_found_whole_and_first() {
        assert_eq!(find_text(b"--ab-abc-abc", b"abc"), Some(5));
        assert_eq!(find_text(b"abab", b"abc"), None);
        assert_eq!(find_text(b"", b"abc"), None);
    }
}
