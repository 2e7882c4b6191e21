//! What kind of file system a folder is on.

use std::path::Path;

/// What the system says a folder is on, for file systems that other hosts may use at the same time.
#[cfg(target_os = "linux")]
pub(crate) fn shared(folder: &Path) -> Option<&'static str> {
    // The numbers of `statfs(2)`.
    let known = [
        (0x6969, "nfs"),
        (0xff53_4d42, "cifs"),
        (0xfe53_4d42, "smb2"),
        (0x0bd0_0bd0, "lustre"),
        (0x00c3_6400, "ceph"),
        (0x4750_4653, "gpfs"),
        (0x1983_0326, "beegfs"),
        (0x0102_1997, "9p"),
        (0x6573_5546, "fuse"),
    ];
    let found = rustix::fs::statfs(folder).ok()?;
    let number = u64::try_from(found.f_type).ok()? & 0xffff_ffff;
    let mut named = known.into_iter().filter(|(known, _)| *known == number);
    named.next().map(|(_, name)| name)
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn shared(_: &Path) -> Option<&'static str> {
    None
}
