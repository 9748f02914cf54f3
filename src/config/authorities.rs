//! Certificate authorities that are trusted besides the built-in ones.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use std::sync::Arc;

/// `endpoints[].caFile`
#[derive(Debug, Clone, PartialEq)]
pub struct CaFile {
    pub path: String,
    pub certificates: Arc<[Vec<u8>]>,
}

/// The certificates of a PEM text (RFC 7468), at least one.
pub(super) fn certificates(text: &str) -> Result<Vec<Vec<u8>>, String> {
    let begin = text.split("-----BEGIN CERTIFICATE-----").skip(1);
    let bodies = begin.map(|part| part.split_once("-----END CERTIFICATE-----").map(|(body, _)| body));
    let der = bodies.map(|body| BASE64_STANDARD.decode(body?.split_whitespace().collect::<String>()).ok());
    match der.collect::<Option<Vec<_>>>() {
        Some(certificates) if !certificates.is_empty() => Ok(certificates),
        Some(_) => Err("holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)".into()),
        None => Err("holds a certificate that is cut off or not base64".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_found_among_other_text_and_nothing_else_counts() {
        // R21
        let one = "-----BEGIN CERTIFICATE-----\nAQID\r\nBA==\n-----END CERTIFICATE-----\n";
        assert_eq!(certificates(one), Ok(vec![vec![1, 2, 3, 4]]));
        assert_eq!(certificates(&format!("# home\n{one}text\n{one}")).map(|all| all.len()), Ok(2));
        for text in ["", "x", "-----BEGIN PRIVATE KEY-----\nAQID\n-----END PRIVATE KEY-----"] {
            assert!(certificates(text).is_err_and(|e| e.contains("PEM")), "{text:?}");
        }
        for text in ["-----BEGIN CERTIFICATE-----\nAQID", "-----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----"] {
            assert!(certificates(text).is_err_and(|e| e.contains("base64")), "{text:?}");
        }
    }
}
