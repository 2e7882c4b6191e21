//! The longest lists that are read.

/// Bytes of a list, unpacked.
pub(super) const MOST_BYTES: u64 = 4 << 30;
/// Records of a list.
pub(super) const MOST_RECORDS: usize = 20_000_000;
