//! What an operator decides about nodes, contributions and policies, against a real core over a real store.

use exeunt_exits::{DriftLevel, PolicyRequest};
use exeunt_protocol::coordinator::{Input, Standing, Target};
use exeunt_protocol::live::LiveCounts;
use exeunt_protocol::message::{Ack, DesiredPolicy, FromNode, Hello, Membership, Rejection};
use exeunt_protocol::operator::{ContributionState, RunReport};
use exeunt_protocol::{NodeId, PolicyVersion, QueryId};
use exeunt_stats::{Digest, Table};
use exeunt_store::{TokenOutcome, TokenRecord};

use crate::core::Core;
use crate::members::MemberError;
use crate::testing::Fleet;

impl Fleet {
    fn report(&self) -> RunReport {
        self.core.report(self.now, &self.run).unwrap()
    }

    fn set(&mut self, points: f64, target: Target) -> PolicyVersion {
        let wish = PolicyRequest::MaxDrop(points);
        let version = self.core.set_policy(self.now, &self.run, &wish, target).unwrap();
        self.core.work(self.now).unwrap();
        version
    }

    fn remove(&mut self, node: usize) {
        self.core.remove_contribution(self.now, &self.run, self.nodes[node]).unwrap();
        self.core.work(self.now).unwrap();
    }

    fn policy_of(&self, node: usize) -> Option<DesiredPolicy> {
        self.core.machine.desired(self.nodes[node]).runs.into_iter().find_map(|run| run.policy)
    }

    /// The coordinator with the same store, as if it had been started again.
    fn again(mut self) -> Self {
        let Core { store, .. } = self.core;
        self.core = Core::open(store, self.now).unwrap();
        for node in self.nodes.clone() {
            self.connect(node);
        }
        self
    }

    fn connect(&mut self, node: NodeId) {
        let (name, software, engine) = (String::new(), "test".to_owned(), "none".to_owned());
        let hello = Hello { oldest: 1, newest: 2, name, software, engine };
        self.core.handle(self.now, Input::Connected { node, hello });
        self.core.work(self.now).unwrap();
    }
}

fn ready(nodes: u8) -> Fleet {
    let mut fleet = Fleet::new(nodes);
    fleet.run_until_ready();
    fleet
}

/// Everything that a run learnt: sums, means, curve.
fn learnt(fleet: &Fleet) -> (Digest, Option<Digest>, String) {
    let report = fleet.report();
    (report.digest, report.status.snapshot, serde_json::to_string(&report.status.result).unwrap())
}

#[test]
fn a_run_without_a_contribution_is_the_run_that_never_had_it() {
    let mut fleet = ready(4);
    let never = ready(3);
    assert_ne!(learnt(&fleet), learnt(&never));
    fleet.remove(3);
    fleet.run_until_ready();
    assert_eq!(learnt(&fleet), learnt(&never));
    let moments = |fleet: &Fleet| fleet.core.snapshots(&fleet.run).unwrap().pop().unwrap();
    assert_eq!(moments(&fleet).digest, moments(&never).digest);
    assert_eq!(moments(&fleet).cohort, never.nodes);

    // Sums are not asked for again, what was measured with the old means is.
    let report = fleet.report();
    let now: Vec<_> = report.status.queries.iter().filter(|query| !query.superseded).collect();
    let kept: Vec<&str> =
        now.iter().filter(|query| query.reused.is_some()).map(|query| query.name.as_str()).collect();
    assert_eq!(kept, ["census", "range", "moments"]);
    assert!(now.iter().all(|query| !query.answered.contains(&fleet.nodes[3])));
    assert_eq!(report.status.removed, [fleet.nodes[3]]);
    assert!(report.late.is_empty(), "{:?}", report.late);

    // It stays so after a restart, and the node is asked nothing any more.
    let fleet = fleet.again();
    assert_eq!(learnt(&fleet), learnt(&never));
    assert_eq!(fleet.standing(), Standing::Ready);
}

#[test]
fn contributions_are_removed_one_after_the_other_while_queries_are_open() {
    let mut fleet = Fleet::new(5);
    for _ in 0..4 {
        fleet.all_answer();
    }
    fleet.remove(4);
    // The node that is taken out had answered the open query, too.
    let (query, ..) = fleet.open().unwrap();
    let table = fleet.answer(3);
    assert_eq!(fleet.send(3, query, &table), Ack::Stored);
    fleet.remove(3);
    // A node that speaks the first version of the messages would not understand the new word.
    assert!(matches!(fleet.send(3, query, &table), Ack::Rejected(Rejection::UnknownQuery { .. })));
    let mut fleet = fleet.again();
    fleet.run_until_ready();
    assert_eq!(learnt(&fleet), learnt(&ready(3)));
    let Ack::Rejected(Rejection::NotTakingPart { why }) = fleet.send(3, query, &table) else { panic!() };
    assert_eq!(why, "its contribution was removed");
    let error = fleet.core.remove_contribution(fleet.now, &fleet.run, fleet.nodes[3]).unwrap_err();
    assert!(error.to_string().contains("has no contribution of node"), "{error}");
}

/// Nodes that join one after the other, each when the one before has answered with the largest count that is taken from
/// it: half of what there is room for is left for those who join, and many who join use it up. The last answers honestly.
fn a_greedy_fleet(nodes: u8, first: i64) -> Fleet {
    let mut fleet = Fleet::new(1);
    let (query, ..) = fleet.open().unwrap();
    for place in 0..usize::from(nodes) {
        fleet.enrol();
        let most = i64::MAX / (2 * (place as i64 + 2));
        let count = if place == 0 { first * most } else { most };
        assert_eq!(fleet.send(place, query, &Table::from_cells(vec![count, 9, 9])), Ack::Stored);
    }
    let honest = fleet.answer(usize::from(nodes));
    assert_eq!(fleet.send(usize::from(nodes), query, &honest), Ack::Stored);
    fleet
}

#[test]
fn numbers_that_do_not_add_up_end_the_run_and_not_the_coordinator() {
    let fleet = a_greedy_fleet(12, 1);
    let Standing::Failed { why } = fleet.standing() else { panic!("{:?}", fleet.standing()) };
    let culprit = format!("node {} says {}", fleet.nodes[0], i64::MAX / 4);
    assert!(why.contains("cell 0 overflows") && why.contains(&culprit), "{why}");

    // A restart comes to the same, and without the contribution the question is asked again.
    let mut fleet = fleet.again();
    assert!(matches!(fleet.standing(), Standing::Failed { .. }), "{:?}", fleet.standing());
    fleet.remove(0);
    assert!(fleet.open().is_some(), "{:?}", fleet.standing());
    assert_eq!(fleet.again().report().status.removed.len(), 1);
}

#[test]
fn what_had_a_sum_only_with_a_removed_contribution_ends_the_run_and_not_the_coordinator() {
    let mut fleet = a_greedy_fleet(19, -1);
    assert!(fleet.open().is_some(), "{:?}", fleet.standing());
    fleet.remove(0);
    assert!(matches!(fleet.standing(), Standing::Failed { .. }), "{:?}", fleet.standing());
    let fleet = fleet.again();
    assert!(matches!(fleet.standing(), Standing::Failed { .. }), "{:?}", fleet.standing());
}

#[test]
fn a_contribution_that_was_replaced_is_still_taken_out_as_it_was_counted() {
    let mut fleet = ready(4);
    // Its data has changed since: the answers that were counted are not its newest any more.
    for query in 0..3 {
        let cells = fleet.core.machine.expected_cells(fleet.nodes[3], &fleet.run, QueryId(query)).unwrap();
        let other = Table::from_cells(vec![1; cells]);
        assert_eq!(fleet.send_edition(3, QueryId(query), &other, 2), Ack::Stored);
    }
    fleet.remove(3);
    fleet.run_until_ready();
    assert_eq!(learnt(&fleet), learnt(&ready(3)));
}

#[test]
fn a_query_does_not_close_with_what_the_same_transaction_replaced() {
    let mut fleet = Fleet::new(2);
    let (query, ..) = fleet.open().unwrap();
    let (old, other) = (fleet.answer(0), fleet.answer(1));
    let new = Table::from_cells(old.cells().iter().map(|cell| cell + 1).collect());
    fleet.send(0, query, &old);
    // Both arrive before the core works: the first completes the query, the second replaces what is in it.
    fleet.arrive(1, query, &other, 1);
    fleet.arrive(0, query, &new, 2);
    fleet.core.work(fleet.now).unwrap();
    let seals = fleet.core.store().seals(&fleet.run).unwrap();
    let versions: Vec<u64> = seals[0].1.cohort.iter().map(|(_, version, _)| version.0).collect();
    assert_eq!(versions, [2, 1]);
    fleet.run_until_ready();
}

#[test]
fn policies_in_force_follow_to_the_snapshot_without_the_contribution() {
    let mut fleet = ready(4);
    fleet.set(5.0, Target::Fleet);
    fleet.set(1.0, Target::Node(fleet.nodes[0]));
    fleet.run_until_ready();
    let before = fleet.policy_of(1).unwrap();
    fleet.remove(3);
    // Until the new snapshot is measured, nodes keep what they have.
    assert_eq!(fleet.policy_of(1), Some(before.clone()));
    fleet.run_until_ready();
    let mut fleet = fleet.again();
    fleet.run_until_ready();
    let report = fleet.report();
    let (own, fleets) = (fleet.policy_of(0).unwrap(), fleet.policy_of(1).unwrap());
    assert_eq!(Some(fleets.heads.digest), report.status.snapshot);
    assert_ne!(fleets.heads, before.heads);
    assert_eq!((fleets.version.0, own.version.0), (3, 4));
    assert_eq!(fleet.policy_of(3), Some(fleets), "it goes on inferring");
    let figures: Vec<(bool, bool)> =
        report.status.policies.iter().map(|policy| (policy.superseded, policy.cost.is_some())).collect();
    assert_eq!(figures, [(true, false), (true, false), (false, true), (false, true)]);
    assert_eq!(report.status.in_force().unwrap().version.0, 3);
}

#[test]
fn one_node_has_a_policy_of_its_own_until_it_is_cleared() {
    let mut fleet = ready(3);
    let one = fleet.nodes[1];
    let fleets = fleet.set(5.0, Target::Fleet);
    let own = fleet.set(0.5, Target::Node(one));
    fleet.run_until_ready();
    let versions = |fleet: &Fleet| [0, 1, 2].map(|node| fleet.policy_of(node).unwrap().version);
    assert_eq!(versions(&fleet), [fleets, own, fleets]);
    // Another policy for the fleet does not touch it; a draft touches nobody.
    let fleets = fleet.set(3.0, Target::Fleet);
    fleet.set(2.0, Target::Nobody);
    fleet.run_until_ready();
    let mut fleet = fleet.again();
    assert_eq!(versions(&fleet), [fleets, own, fleets]);
    fleet.core.handle(
        fleet.now,
        Input::Said { node: one, word: FromNode::Using { run: fleet.run.clone(), policy: own } },
    );
    let report = fleet.report();
    let of = |node: usize| report.nodes.iter().find(|given| given.node == fleet.nodes[node]).unwrap();
    let state = &of(1).policy;
    assert_eq!((state.wanted, state.overridden, state.using), (Some(own), true, Some(own)));
    assert_eq!((of(0).policy.wanted, of(0).policy.using), (Some(fleets), None));
    let shown = |node: usize| of(node).policies.iter().map(|policy| policy.version).collect::<Vec<_>>();
    assert!(shown(1).contains(&own) && !shown(0).contains(&own));

    fleet.core.clear_policy(&fleet.run, one).unwrap();
    fleet.core.work(fleet.now).unwrap();
    let mut fleet = fleet.again();
    assert_eq!(versions(&fleet), [fleets; 3]);
    let error = fleet.core.clear_policy(&fleet.run, one).unwrap_err();
    assert!(error.to_string().contains("no policy of its own"), "{error}");
    let stranger = Target::Node(NodeId::from_bytes([99; 16]));
    let wish = PolicyRequest::MaxDrop(1.0);
    let error = fleet.core.set_policy(fleet.now, &fleet.run, &wish, stranger).unwrap_err();
    assert!(error.to_string().starts_with("there is no node"), "{error}");
}

#[test]
fn policies_are_kept_under_a_name() {
    let mut fleet = ready(2);
    let run = fleet.run.clone();
    let error = fleet.core.save_policy(fleet.now, &run, "shy", None).unwrap_err();
    assert!(error.to_string().ends_with("has no policy in force"), "{error}");
    let first = fleet.set(1.0, Target::Fleet);
    fleet.core.save_policy(fleet.now, &run, " shy ", None).unwrap();
    fleet.set(20.0, Target::Fleet);
    fleet.run_until_ready();
    let mut fleet = fleet.again();
    let error = fleet.core.apply_policy(fleet.now, &run, "bold", Target::Fleet).unwrap_err();
    assert!(error.to_string().ends_with("no policy called 'bold'; there are: shy"), "{error}");
    let applied = fleet.core.apply_policy(fleet.now, &run, "shy", Target::Fleet).unwrap();
    fleet.core.work(fleet.now).unwrap();
    fleet.run_until_ready();
    let report = fleet.report();
    let policy = |version| &report.status.policies.iter().find(|p| p.version == version).unwrap().policy;
    assert_eq!(policy(applied), policy(first));
    assert_eq!((report.named[0].name.as_str(), report.named[0].version), ("shy", first));
    fleet.core.forget_policy(fleet.now, &run, "shy").unwrap();
    assert!(fleet.core.forget_policy(fleet.now, &run, "shy").is_err());
    assert!(fleet.core.save_policy(fleet.now, &run, "\n", None).is_err());
}

#[test]
fn a_quarantined_node_keeps_its_policy_and_holds_nobody_up() {
    let mut fleet = ready(3);
    let out = fleet.nodes[2];
    fleet.set(5.0, Target::Fleet);
    let (query, ..) = fleet.open().unwrap();
    for node in [0, 2] {
        let table = fleet.answer(node);
        fleet.send(node, query, &table);
    }
    fleet.core.quarantine(fleet.now, out).unwrap();
    fleet.core.work(fleet.now).unwrap();
    let desired = fleet.core.machine.desired(out).runs;
    assert!(desired[0].query.is_none() && desired[0].policy.is_some());
    let report = fleet.report();
    let declined = &report.status.queries.last().unwrap().declined;
    assert_eq!((declined[0].node, declined[0].reason.as_str()), (out, "quarantined"));
    assert!(report.status.waiting_for.iter().all(|waiting| waiting.node != out));
    let state = &report.nodes.iter().find(|given| given.node == out).unwrap().contribution;
    let reason = "quarantined".to_owned();
    assert_eq!(state.as_ref().unwrap().state, ContributionState::LeftOut { reason });

    // The query closes without it, though its answer was stored before.
    let mut fleet = fleet.again();
    fleet.run_until_ready();
    let report = fleet.report();
    assert_eq!(report.status.queries.last().unwrap().answered, fleet.nodes[..2]);
    assert_eq!(report.late.iter().map(|late| late.node).collect::<Vec<_>>(), [out]);

    assert!(matches!(fleet.core.quarantine(fleet.now, out), Err(MemberError::Standing { .. })));
    fleet.core.release(fleet.now, out).unwrap();
    fleet.set(4.0, Target::Fleet);
    assert!(fleet.core.machine.desired(out).runs[0].query.is_some());
    fleet.run_until_ready();
}

#[test]
fn a_node_that_waits_for_approval_takes_part_in_nothing() {
    let mut fleet = ready(2);
    fleet.set(5.0, Target::Fleet);
    let (secret, node) = (Digest::of(b"secret"), NodeId::from_bytes([7; 16]));
    let token = TokenRecord { label: String::new(), expires_ms: 1_000, used_by: None, approve: true };
    fleet.core.store_mut().add_token(secret, &token, 1).unwrap();
    assert_eq!(fleet.core.enrol(fleet.now, secret, node, "newcomer").unwrap(), TokenOutcome::Enrolled);
    let mut fleet = fleet.again();
    fleet.connect(node);
    assert_eq!(fleet.core.machine.membership(node), Some(Membership::Pending));
    assert!(fleet.core.machine.desired(node).runs.is_empty());
    // Nobody waits for it.
    fleet.run_until_ready();
    fleet.core.rename(fleet.now, node, "porch").unwrap();
    fleet.core.approve(fleet.now, node).unwrap();
    let effects = fleet.core.work(fleet.now).unwrap();
    assert!(!effects.is_empty(), "it is told at once");
    assert!(fleet.core.machine.desired(node).runs[0].policy.is_some());
    assert!(matches!(fleet.core.approve(fleet.now, node), Err(MemberError::Standing { .. })));
    assert!(matches!(fleet.core.rename(fleet.now, node, "a\u{7}"), Err(MemberError::Name { .. })));

    let fleet = fleet.again();
    let rows = fleet.core.node_rows(|_| String::new()).unwrap();
    let row = rows.iter().find(|row| row.status.node == node).unwrap();
    assert_eq!((row.status.name.as_str(), row.status.membership), ("porch", Membership::Active));
    let detail = fleet.core.node_detail(fleet.now, node, None, |_| String::new()).unwrap().unwrap();
    let log: Vec<&str> = detail.log.iter().map(|line| line.text.as_str()).collect();
    assert_eq!(log[0], "node 'newcomer' enrolled with token '': waits for approval");
    assert!(log.contains(&"'newcomer' is called 'porch' now"), "{log:?}");
}

#[test]
fn snapshots_are_listed_and_compared() {
    let mut fleet = ready(4);
    let run = fleet.run.clone();
    assert_eq!(fleet.core.snapshots(&run).unwrap().len(), 1);
    fleet.remove(1);
    fleet.run_until_ready();
    let fleet = fleet.again();
    let made = fleet.core.snapshots(&run).unwrap();
    let facts: Vec<_> =
        made.iter().map(|row| (row.version, row.cohort.len(), row.samples, row.reason.as_str())).collect();
    assert_eq!(facts, [(1, 4, 800, "first"), (2, 3, 600, "without 'node-2'")]);
    let diff = fleet.core.snapshot_diff(&run, 1, 2).unwrap();
    assert_eq!((diff.joined.as_slice(), diff.left.as_slice()), (&[][..], &[fleet.nodes[1]][..]));
    assert!(diff.classes.iter().all(|class| (class.from, class.to) == (80, 60)));
    let moved = diff.exits[0].mean.unwrap();
    assert!(moved > 0.0 && moved < 1.0, "{moved}");
    assert!(diff.exits[0].most.unwrap() >= moved && diff.exits[0].farthest.is_some());
    assert!(!diff.accuracy_at_cost.is_empty());
    let same = fleet.core.snapshot_diff(&run, 2, 2).unwrap();
    assert!(same.exits.iter().all(|exit| exit.most == Some(0.0)));
    assert!(same.accuracy_at_cost.iter().all(|point| point.from == point.to));
    let error = fleet.core.snapshot_diff(&run, 1, 3).unwrap_err();
    assert!(error.to_string().ends_with("has no snapshot 3; it has 2"), "{error}");
}

#[test]
fn what_inference_does_is_judged_against_what_was_measured() {
    let mut fleet = ready(2);
    let version = fleet.set(5.0, Target::Fleet);
    fleet.run_until_ready();
    let (run, node) = (fleet.run.clone(), fleet.nodes[0]);
    let left = fleet.report().status.in_force().unwrap().left.clone();
    let exits = left.len() - 1;
    let say = |fleet: &mut Fleet, counts: LiveCounts| {
        let word = FromNode::Live(Box::new(counts));
        fleet.core.handle(fleet.now, Input::Said { node, word });
        fleet.core.work(fleet.now).unwrap();
    };
    let mut counts = LiveCounts::new(run.clone(), version, exits, 5);
    counts.left = left.iter().map(|share| (share * 10_000.0).round() as u64).collect();
    (counts.macs, counts.bare_macs) = (40, 100);
    say(&mut fleet, counts.clone());
    let live = fleet.core.machine.live(&run).unwrap();
    assert_eq!((live.len(), live[0].cost, live[0].history.len()), (1, Some(0.4), 1));
    assert_eq!(live[0].drift.unwrap().level, DriftLevel::Steady);
    // Everybody stays to the end now.
    let stay = counts.left.last_mut().unwrap();
    *stay += 90_000;
    say(&mut fleet, counts.clone());
    let live = fleet.core.machine.live(&run).unwrap();
    assert_eq!((live[0].drift.unwrap().level, live[0].history.len()), (DriftLevel::Drifted, 2));
    // A report that cannot be is noted once, and changes nothing.
    counts.left.pop();
    say(&mut fleet, counts.clone());
    say(&mut fleet, counts);
    assert_eq!(fleet.core.machine.live(&run).unwrap(), live);
    let log = fleet.core.store().audit_of(node, 100, 1000).unwrap();
    assert_eq!(log.iter().filter(|(_, line)| line.text.starts_with("report of inference")).count(), 1);
}
