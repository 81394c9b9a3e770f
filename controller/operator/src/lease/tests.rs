use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn terms() -> Terms {
    Terms::new(15 * SECOND, 10 * SECOND, 2 * SECOND).unwrap()
}

fn candidate(name: &str) -> Election {
    Election::new(name.to_owned(), terms())
}

fn lease(holder: &str, version: &str) -> Lease {
    let mut lease = Lease::default();
    lease.metadata.resource_version = Some(version.to_owned());
    lease.spec = Some(LeaseSpec {
        holder_identity: Some(holder.to_owned()),
        lease_duration_seconds: Some(15),
        lease_transitions: Some(3),
        ..LeaseSpec::default()
    });
    lease
}

fn clock() -> Timestamp {
    Timestamp::UNIX_EPOCH
}

/// Whose it would be, and after how many changes of hands.
fn written(step: Step) -> Option<(String, i32)> {
    match step {
        Step::Wait => None,
        Step::Create(spec) | Step::Write(spec) => Some((
            spec.holder_identity.unwrap(),
            spec.lease_transitions.unwrap(),
        )),
    }
}

#[test]
fn a_lease_that_is_not_there_is_made() {
    let step = candidate("a").step(None, Instant::now(), clock());
    assert!(matches!(step, Step::Create(_)));
    assert_eq!(written(step), Some(("a".to_owned(), 0)));
}

#[test]
fn one_that_was_given_up_is_taken_at_once() {
    let step = candidate("a").step(Some(&lease("", "7")), Instant::now(), clock());
    assert_eq!(written(step), Some(("a".to_owned(), 4)));
}

#[test]
fn another_s_is_taken_only_after_it_was_watched_unchanged_for_its_whole_duration() {
    let mut election = candidate("a");
    let begin = Instant::now();
    let at = |seconds: u32| begin + seconds * SECOND;
    let mut look = |version: &str, seconds| {
        let step = election.step(Some(&lease("b", version)), at(seconds), clock());
        written(step).map(|(holder, _)| holder)
    };
    assert_eq!(look("1", 0), None);
    assert_eq!(look("1", 14), None);
    // Renewed: the wait begins anew, whatever its times say.
    assert_eq!(look("2", 14), None);
    assert_eq!(look("2", 28), None);
    assert_eq!(look("2", 29), Some("a".to_owned()));
}

#[test]
fn its_own_is_renewed_and_keeps_when_it_was_acquired() {
    let mut own = lease("a", "1");
    let acquired = Some(MicroTime("2026-01-01T00:00:00Z".parse().unwrap()));
    own.spec
        .as_mut()
        .unwrap()
        .acquire_time
        .clone_from(&acquired);
    let Step::Write(spec) = candidate("a").step(Some(&own), Instant::now(), clock()) else {
        panic!("it is written");
    };
    assert_eq!(spec.acquire_time, acquired);
    assert_eq!(spec.renew_time, Some(MicroTime(clock())));
    assert_eq!(spec.lease_transitions, Some(3));
}

#[test]
fn a_leader_must_stop_before_others_may_begin() {
    let cases = [
        (15, 10, 2, true),
        (10, 10, 2, false),
        (15, 2, 2, false),
        (15, 10, 0, false),
    ];
    for (lease, renew, retry, good) in cases {
        let terms = Terms::new(lease * SECOND, renew * SECOND, retry * SECOND);
        assert_eq!(terms.is_ok(), good, "{lease} {renew} {retry}");
    }
}
