//! The text form of keys (RFC 7468): blocks between `-----BEGIN LABEL-----` and `-----END LABEL-----`.

use super::KeyProblem;
use base64::{Engine, engine::general_purpose::STANDARD};

/// One block: its label and its content, not yet decoded.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Block<'a> {
    pub(super) label: &'a str,
    body: &'a str,
}

impl Block<'_> {
    /// The content in binary.
    pub(super) fn der(&self) -> Result<Vec<u8>, KeyProblem> {
        let compact: String = self.body.split_ascii_whitespace().collect();
        STANDARD.decode(compact).map_err(|_| KeyProblem::Damaged)
    }
}

/// All blocks of a file, at least one; text around them is ignored, as openssl does.
pub(super) fn blocks(file: &[u8]) -> Result<Vec<Block<'_>>, KeyProblem> {
    let mut rest = str::from_utf8(file).map_err(|_| KeyProblem::NoPem)?;
    let mut blocks = Vec::new();
    while let Some((_, after_begin)) = rest.split_once("-----BEGIN ") {
        let (label, after_label) = after_begin.split_once("-----").ok_or(KeyProblem::Damaged)?;
        let (body, after_body) =
            after_label.split_once(&format!("-----END {label}-----")).ok_or(KeyProblem::Damaged)?;
        blocks.push(Block { label, body });
        rest = after_body;
    }
    if blocks.is_empty() { Err(KeyProblem::NoPem) } else { Ok(blocks) }
}

/// One block as text, lines of 64 characters.
pub(super) fn encode(label: &str, der: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    let body = STANDARD.encode(der);
    for (at, character) in body.chars().enumerate() {
        if at > 0 && at % 64 == 0 {
            text.push('\n');
        }
        text.push(character);
    }
    text + "\n-----END " + label + "-----\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        for length in [1, 47, 48, 49, 300] {
            let der: Vec<u8> = (0..length).map(|byte| byte as u8).collect();
            let text = encode("A KEY", &der) + "and a note\n" + &encode("OTHER", &der).replace('\n', "\r\n");
            let found = blocks(text.as_bytes()).unwrap();
            assert_eq!(found.iter().map(|block| block.label).collect::<Vec<_>>(), ["A KEY", "OTHER"]);
            assert!(found.iter().all(|block| block.der().unwrap() == der));
            assert!(text.lines().all(|line| line.len() <= 64));
        }
    }

    #[test]
    fn damaged() {
        let check = |text: &str, problem| assert_eq!(blocks(text.as_bytes()).unwrap_err(), problem, "{text}");
        check("", KeyProblem::NoPem);
        check("MIIB", KeyProblem::NoPem);
        check("-----BEGIN A", KeyProblem::Damaged);
        check("-----BEGIN A-----\nAA==", KeyProblem::Damaged);
        check("-----BEGIN A-----\nAA==\n-----END B-----", KeyProblem::Damaged);
        assert_eq!(blocks(b"\x30\x82\xff").unwrap_err(), KeyProblem::NoPem);
        assert_eq!(blocks(b"-----BEGIN A-----\n!\n-----END A-----").unwrap()[0].der(), Err(KeyProblem::Damaged));
    }
}
