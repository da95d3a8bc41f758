use super::{SessionView, overdue};
use std::time::Duration;

#[test]
fn a_session_is_overdue_when_the_peer_is_to_blame() {
    let quiet = SessionView {
        has_requests: false,
        silent_for: Duration::ZERO,
        owed_for: Duration::ZERO,
        blocked_for: Duration::ZERO,
    };
    let frame = Duration::from_secs(30);
    let idle = Duration::from_secs(180);
    let is_overdue = |view| overdue(view, frame, idle).is_some();
    assert!(!is_overdue(quiet));
    assert!(!is_overdue(SessionView { silent_for: idle - Duration::from_millis(1), ..quiet }));
    assert!(is_overdue(SessionView { silent_for: idle, ..quiet }));
    assert!(
        !is_overdue(SessionView { silent_for: idle, has_requests: true, ..quiet }),
        "the server is slow, not the peer"
    );
    assert!(is_overdue(SessionView { owed_for: frame, has_requests: true, ..quiet }));
    assert!(is_overdue(SessionView { blocked_for: frame, has_requests: true, ..quiet }));
    assert!(!is_overdue(SessionView { blocked_for: frame / 2, owed_for: frame / 2, ..quiet }));
}
