//! Small files of the store's own that carry the digest of themselves: what was changed by chance is not believed.

use crate::Digest;

const HEAD: &[u8] = b"blake3 ";
const DIGEST_LEN: usize = 64;

/// `body`, followed by a line with its digest.
pub(crate) fn seal(mut body: Vec<u8>) -> Vec<u8> {
    let digest = Digest::of_bytes(&body);
    body.extend_from_slice(HEAD);
    body.extend_from_slice(digest.hex().as_bytes());
    body.push(b'\n');
    body
}

/// The body, if its digest is right.
pub(crate) fn unseal(bytes: &[u8]) -> Option<&[u8]> {
    let at = bytes.len().checked_sub(HEAD.len() + DIGEST_LEN + 1)?;
    let (body, last) = bytes.split_at(at);
    let digest = last.strip_prefix(HEAD)?.strip_suffix(b"\n")?;
    (Digest::of_bytes(body).hex().as_bytes() == digest).then_some(body)
}
