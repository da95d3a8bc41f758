use super::*;

const OPS: [OpKind; 4] = [OpKind::Read, OpKind::Put, OpKind::MetaRead, OpKind::Mutation];
const RETRY_AFTER: Duration = Duration::from_millis(40);

type Row = (Event, [Action; 4], [Evidence; 4], [bool; 4]);

/// The whole table: event, then action of read, put, meta read, mutation, then the evidence of each, charged ones
/// marked.
#[rustfmt::skip]
fn table() -> Vec<Row> {
    use {Action as A, Evidence as E, Event as V};
    const FREE: [bool; 4] = [false; 4];
    const META: [bool; 4] = [false, false, true, true];
    let busy = E::Busy(RETRY_AFTER);
    let idle = E::Busy(Duration::ZERO);
    let pause = A::Pause(RETRY_AFTER);
    let short = A::Pause(Duration::from_millis(5));
    vec![
        (V::ConnectFailed, [A::Next, A::Leave, A::Next, A::Next], [E::Dial; 4], FREE),
        (V::TurnedAway, [A::Next, A::Leave, A::Next, A::Next], [E::Dial; 4], FREE),
        (V::StaleConnection, [A::Resend; 4], [E::None; 4], FREE),
        (V::Broken, [A::Next, A::Resend, A::Next, A::Next], [E::Broken; 4], FREE),
        (V::Timer, [A::Join, A::Straggle, A::Join, A::Join], [E::None; 4], FREE),
        (V::TimedOut, [A::Next, A::Leave, A::Next, A::Next], [E::None; 4], FREE),
        (V::Skipped, [A::Next, A::Leave, A::Next, A::Next], [E::None; 4], FREE),
        (V::Overloaded { retry_after: RETRY_AFTER }, [A::Next, pause, pause, pause], [busy; 4], META),
        (V::Overloaded { retry_after: Duration::ZERO }, [A::Next, short, short, short], [idle; 4], META),
        (V::Unavailable { retry_after: RETRY_AFTER }, [A::Next, A::Leave, pause, pause], [busy; 4], FREE),
        (V::Unavailable { retry_after: Duration::ZERO }, [A::Next, A::Leave, A::Final, A::Final],
            [idle, idle, E::Answered, E::Answered], FREE),
        (V::Moved, [A::Refresh; 4], [E::None; 4], FREE),
        (V::BlockNotFound, [A::NextAndReport, A::Leave, A::Final, A::Final],
            [E::Defect, E::Answered, E::Answered, E::Answered], FREE),
        (V::Corrupt, [A::NextAndReport, A::Resend, A::Resend, A::Resend], [E::Defect; 4], FREE),
        (V::Protocol, [A::Next, A::Resend, A::Resend, A::Resend], [E::Broken; 4], FREE),
        (V::BlockExists, [A::Final, A::Done, A::Final, A::Final], [E::Answered; 4], FREE),
        (V::BlockConflict, [A::Final; 4], [E::Answered; 4], FREE),
        (V::Conflict, [A::Final; 4], [E::Answered; 4], FREE),
        (V::OutcomeUnknown, [A::Next, A::Resend, short, A::Resolve], [E::Broken; 4], FREE),
        (V::ServerFailed, [A::Next, A::Leave, A::Next, A::Next], [E::Broken; 4], FREE),
        (V::NoSpace, [A::Next, A::Leave, A::Final, A::Final], [E::Answered; 4], FREE),
        (V::NoQuorum, [A::Final, A::Final, A::Final, A::Rewrite], [E::Answered; 4], FREE),
        (V::Dropped, [A::Next, A::Leave, A::Next, A::Next], [E::Answered; 4], FREE),
        (V::Refused, [A::Next, A::Leave, A::Final, A::Final], [E::Defect, E::Defect, E::Answered, E::Answered], FREE),
        (V::Ended, [A::Final, A::Final, A::Final, A::ResolveInBackground], [E::None; 4], FREE),
    ]
}

#[test]
fn the_table_is_as_written_here() {
    for (event, actions, evidence, charged) in table() {
        for (index, op) in OPS.into_iter().enumerate() {
            let expected = Rule { action: actions[index], evidence: evidence[index], charged: charged[index] };
            assert_eq!(rule(op, &event), expected, "{op:?} {event:?}");
        }
    }
}

#[test]
fn promises_of_the_whole_table() {
    for (event, ..) in table() {
        for op in OPS {
            let Rule { action, charged, .. } = rule(op, &event);
            // Failover is never paid for: a budget spent by one bad replica must not fail reads that others could serve.
            assert!(!(charged && action == Action::Next), "{op:?} {event:?}");
            // A read never sleeps or asks the same node while another one is left.
            if op == OpKind::Read {
                assert!(!matches!(action, Action::Pause(_)), "{event:?}");
                assert!(action != Action::Resend || event == Event::StaleConnection, "{event:?}");
            }
            // A mutation whose outcome is open is never reported as ended.
            if op == OpKind::Mutation && matches!(event, Event::OutcomeUnknown | Event::Ended | Event::Broken) {
                assert_ne!(action, Action::Final);
            }
        }
    }
}

/// Codes of the wire protocol; the list is as long as the numbers are dense.
fn codes() -> Vec<Code> {
    (0..200).filter_map(|number| Code::try_from(number).ok()).collect()
}

#[test]
fn every_code_has_an_event_of_the_table() {
    let known: Vec<Event> = table().into_iter().map(|(event, ..)| event).collect();
    assert!(codes().len() >= 32);
    for code in codes() {
        for retry_after_ms in [0, 40] {
            let event = event_of_status(&Status::new(code, "").retry_after_ms(retry_after_ms));
            assert!(known.contains(&event), "{code:?}");
        }
    }
    let event = |code| event_of_status(&Status::new(code, ""));
    assert_eq!(event(Code::StaleEpoch), Event::Moved);
    assert_eq!(event(Code::OutcomeUnknown), Event::OutcomeUnknown);
    assert_eq!(event(Code::Fenced), Event::Refused);
    assert_eq!(event(Code::Io), Event::ServerFailed);
    let overloaded = Status::new(Code::Overloaded, "").retry_after_ms(40);
    assert_eq!(event_of_status(&overloaded), Event::Overloaded { retry_after: RETRY_AFTER });
}

#[test]
fn no_server_makes_a_client_wait_for_as_long_as_it_likes() {
    let hour = Duration::from_secs(3600);
    for event in [Event::Overloaded { retry_after: hour }, Event::Unavailable { retry_after: hour }] {
        assert_eq!(rule(OpKind::Mutation, &event).action, Action::Pause(Duration::from_secs(5)));
    }
}

#[test]
fn what_the_server_said_counts_more_than_how_the_leg_ended() {
    assert_eq!(event_of(FailureClass::Refused, None), Event::TurnedAway);
    assert_eq!(event_of(FailureClass::Refused, Some(&Status::new(Code::Invalid, ""))), Event::Refused);
    assert_eq!(event_of(FailureClass::Connect, None), Event::ConnectFailed);
    assert_eq!(event_of(FailureClass::Reset, None), Event::Broken);
    assert_eq!(event_of(FailureClass::TimedOut, None), Event::TimedOut);
    assert_eq!(event_of(FailureClass::Skipped, None), Event::Skipped);
}
