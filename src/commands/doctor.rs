//! `dcsft doctor`: what a run would find on this machine.

use std::borrow::Cow;
use std::io::Write;
use std::path::Path;

use dcsft_cache::{BEAT, STALE, Store};
use dcsft_engine::units;
use dcsft_tensor::device::{Accelerator, DeviceError, DeviceSpec, accelerators};
use serde::Serialize;

use crate::cli::Doctor;
use crate::exit::{Exit, Failure};
use crate::output::{print_json, stdout};
use crate::settings::{App, device_list};

/// Less than this free is worth a word: a study of the micro world fits in it several times.
const LOW_SPACE: u64 = 1 << 30;

/// One checked thing.
#[derive(Serialize)]
struct Check {
    name: Cow<'static, str>,
    ok: bool,
    detail: String,
}

/// Prints the checks; fails if one that a run needs does.
///
/// # Errors
/// If stdout cannot be written.
pub(crate) fn run(app: &App, args: &Doctor) -> Result<Exit, Failure> {
    let devices = device_list(&args.device)?;
    let cache = app.cache_dir(None)?;
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let mut checks = vec![
        Check {
            name: "version".into(),
            ok: true,
            detail: env!("CARGO_PKG_VERSION").to_owned(),
        },
        Check {
            name: "threads".into(),
            ok: true,
            detail: threads.to_string(),
        },
    ];
    checks.extend(devices.iter().map(|device| device_check(device)));
    checks.extend(accelerators().into_iter().map(accelerator_check));
    checks.extend(cache_checks(&cache));
    let ok = checks.iter().all(|check| check.ok);
    let mut out = stdout();
    for check in &checks {
        if app.terminal.json {
            print_json(&mut out, check)?;
        } else {
            writeln!(
                out,
                "{} {:<12} {}",
                if check.ok { "ok  " } else { "FAIL" },
                check.name,
                check.detail
            )?;
        }
    }
    out.flush()?;
    Ok(if ok { Exit::Done } else { Exit::Failed })
}

fn device_check(device: &str) -> Check {
    let opened = device.parse::<DeviceSpec>().and_then(DeviceSpec::open);
    let (ok, detail) = match opened {
        Ok(_) => (true, format!("{device} can be used")),
        Err(error) => (false, error.to_string()),
    };
    Check {
        name: "device".into(),
        ok,
        detail,
    }
}

/// What is there beside the processor; that a class has none is no fault.
fn accelerator_check(found: Result<Accelerator, DeviceError>) -> Check {
    let (name, detail) = match found {
        Err(error) => (Cow::Borrowed("accelerators"), error.to_string()),
        Ok(found) => {
            let memory = match found.memory {
                Some(memory) => format!("{} of memory", units::size(memory)),
                None => "memory not told".to_owned(),
            };
            let detail = format!("{}, {}, {memory}", found.name, found.driver);
            (Cow::Owned(found.device.to_string()), detail)
        }
    };
    Check {
        name,
        ok: true,
        detail,
    }
}

fn cache_checks(cache: &Path) -> Vec<Check> {
    let shown = cache.display();
    let store = match Store::open(cache) {
        Ok(store) => store,
        Err(error) => {
            return vec![Check {
                name: "cache".into(),
                ok: false,
                detail: error.to_string(),
            }];
        }
    };
    let writable = Check {
        name: "cache".into(),
        ok: true,
        detail: format!("{shown} is writable"),
    };
    let links = match links(cache) {
        Ok(()) => Check {
            name: "hard links".into(),
            ok: true,
            detail: "work, so datasets and bases are stored once".to_owned(),
        },
        Err(error) => Check {
            name: "hard links".into(),
            ok: true,
            detail: format!(
                "do not work there ({error}): files are copied, which takes more space"
            ),
        },
    };
    vec![writable, links, locks(&store), space(cache)]
}

/// Whether runs on several hosts keep out of each other's way, and by what.
fn locks(store: &Store) -> Check {
    let by_leases = format!(
        "a run waits up to {} s for one on another host that died",
        (BEAT * STALE).as_secs()
    );
    let detail = match (store.locks_have_effect(), store.shared_file_system()) {
        (false, _) => format!("have no effect there: leases keep runs apart, {by_leases}"),
        (true, Some(kind)) => {
            format!("work here, and on {kind} may not reach other hosts: leases do, {by_leases}")
        }
        (true, None) => "work".to_owned(),
    };
    Check {
        name: "locks".into(),
        ok: true,
        detail,
    }
}

fn links(cache: &Path) -> std::io::Result<()> {
    let (one, two) = (cache.join(".doctor-1"), cache.join(".doctor-2"));
    std::fs::write(&one, b"")?;
    let linked = std::fs::hard_link(&one, &two);
    std::fs::remove_file(&one)?;
    linked?;
    std::fs::remove_file(&two)
}

#[cfg(unix)]
fn space(cache: &Path) -> Check {
    match rustix::fs::statvfs(cache) {
        Ok(found) => {
            let free = found.f_bavail.saturating_mul(found.f_frsize);
            let ok = free >= LOW_SPACE;
            let detail = match ok {
                true => units::size(free),
                false => format!(
                    "{}, less than {}: `dcsft cache gc --older-than 30d` removes results not used for that long",
                    units::size(free),
                    units::size(LOW_SPACE)
                ),
            };
            Check {
                name: "free space".into(),
                ok,
                detail,
            }
        }
        Err(error) => Check {
            name: "free space".into(),
            ok: true,
            detail: format!("unknown ({error})"),
        },
    }
}

#[cfg(not(unix))]
fn space(_cache: &Path) -> Check {
    Check {
        name: "free space".into(),
        ok: true,
        detail: "unknown on this system".to_owned(),
    }
}
