//! The only chance. What decides by chance takes the drawn value as an argument.

use rand::{Rng, RngExt};

/// Crockford's base 32 in lower case: no letter that looks like a digit.
const LETTERS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// A name for one request: 20 characters, 100 bits nobody can guess.
pub(crate) fn request_id() -> String {
    let mut rng = rand::rng();
    let (high, low) = (rng.next_u64(), rng.next_u64());
    let letter = |bits: u64| char::from(LETTERS[(bits & 31) as usize]);
    (0..10).map(|i| letter(high >> (5 * i))).chain((0..10).map(|i| letter(low >> (5 * i)))).collect()
}

pub(crate) fn number() -> u32 {
    rand::rng().next_u32()
}

/// A number from 0 up to, but never, 1.
pub(crate) fn unit() -> f64 {
    rand::rng().random()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn request_ids_are_short_safe_and_do_not_repeat() {
        let ids: HashSet<String> = (0..1000).map(|_| request_id()).collect();
        assert_eq!(ids.len(), 1000);
        assert!(ids.iter().all(|id| id.len() == 20 && id.bytes().all(|b| LETTERS.contains(&b))));
    }

    #[test]
    fn a_draw_is_never_one() {
        assert!((0..1000).all(|_| (0.0..1.0).contains(&unit())));
    }
}
