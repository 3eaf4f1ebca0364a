//! A network of a test's own, where every port is free: for what listens on fixed ports.

use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// Set where the test runs in its own network already.
const INSIDE: &str = "TEST_HAS_ITS_OWN_NETWORK";

/// Runs the body of the test of that name in a network namespace with a loopback interface and nothing else. Where the
/// system does not allow that, it runs as it is, one such test at a time: then whoever has one of its ports makes it fail.
pub(crate) fn own(test: &str, body: impl FnOnce()) {
    // as another user, a user namespace has to come with it
    let unshare = ["-n", "-rn"].into_iter().find(|flags| {
        let tried = Command::new("unshare").args([flags, "ip", "link", "set", "lo", "up"]).output();
        tried.is_ok_and(|output| output.status.success())
    });
    let Some(flags) = unshare.filter(|_| std::env::var_os(INSIDE).is_none()) else {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        return body();
    };
    let this = std::env::current_exe().expect("this program");
    let inside = Command::new("unshare")
        .args([flags, "sh", "-c", "ip link set lo up && exec \"$@\"", "sh"])
        .arg(this)
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "yes")
        .output()
        .expect("unshare ran before");
    let (out, error) = (String::from_utf8_lossy(&inside.stdout), String::from_utf8_lossy(&inside.stderr));
    assert!(inside.status.success(), "{out}\n{error}");
    assert!(out.contains("1 passed"), "no test is named {test}:\n{out}");
}
