//! An operator who changes the members as `firn timeline members` does, with the requests of the HTTP API, while everything
//! else goes on. He may be killed at any moment; the next one continues.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use firn_core::api::{CreateTimeline, TermBump, TimelineStatus};
use firn_core::consensus::membership::{Member, Membership, majority_of};
use firn_core::consensus::membership_change::{Known, MembershipChange, Standing};
use firn_core::marks;
use firn_core::types::{NodeId, TimelineKey};
use firn_node::runtime::Runtime;
use firn_node::shard::request::{ManagementError, Reply, Request};
use futures_util::future::{Either, select};

use super::nodes::{Door, NODE_PORT};
use crate::simulation::random::Random;

/// How long a node may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Pause between two looks at how far the new members are, and how many of these there are.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
const LOOKS_MAX: usize = 120;
/// Fewest and most members that a change leads to.
const MEMBERS: std::ops::RangeInclusive<usize> = 3..=5;

/// What the world is told.
#[derive(Debug, Clone)]
pub enum Note {
    /// The membership is about to be told to nodes.
    Issue(Membership),
    /// The node is about to delete the timeline.
    Exclude(NodeId),
    /// A majority took the membership; these are no members any more.
    Complete(Membership, BTreeSet<NodeId>),
}

/// One operator's work.
pub struct Work {
    /// The timeline.
    pub key: TimelineKey,
    /// The nodes.
    pub doors: Vec<Door>,
    /// Nodes whose disk was damaged: they are replaced first.
    pub damaged: BTreeSet<NodeId>,
    /// Only what was begun is brought to its end.
    pub only_finish: bool,
    /// His choices.
    pub random: RefCell<Random>,
    /// What he does.
    pub notes: Rc<RefCell<Vec<Note>>>,
    /// Whether he found nothing (more) to do.
    pub idle: Rc<Cell<bool>>,
}

impl Work {
    /// Changes the members once, or finds that nothing is to be done, or gives up.
    pub async fn run(&self, runtime: &Runtime) {
        let statuses = self.statuses(runtime).await;
        let known: Known = statuses
            .iter()
            .map(|(id, status)| (*id, status.as_ref().map(|status| status.mconf.clone())))
            .collect();
        let Ok(newest) = MembershipChange::newest(&known) else { return };
        let target = match &newest.new_members {
            Some(_) => {
                marks::hit("operator.goes_on");
                let Ok(target) = MembershipChange::under_way(&known) else { return };
                target
            }
            None if self.only_finish => return self.idle.set(true),
            None => match self.draw_target(newest) {
                Some(target) => target,
                None => return,
            },
        };
        // Disks that were damaged and nodes that do not answer for it are for their operators to tell.
        let begun = MembershipChange::begin(&known, &self.damaged, target);
        let example = statuses.values().flatten().max_by_key(|status| status.mconf.generation);
        if let (Ok(Some(change)), Some(example)) = (begun, example) {
            self.change(runtime, &change, &known, example).await;
        }
    }

    async fn change(
        &self,
        runtime: &Runtime,
        change: &MembershipChange,
        known: &Known,
        example: &TimelineStatus,
    ) {
        let (missing, stale) = (change.missing(known), change.stale(known));
        let body = CreateTimeline::added_to(example, change.before());
        for door in self.doors.iter().filter(|door| missing.contains(&door.id)) {
            if stale.contains(&door.id) {
                self.note(Note::Exclude(door.id));
                let (key, before) = (self.key, change.before());
                self.ask(runtime, door, |reply| Request::Exclude(key, before, reply)).await;
            }
            let body = body.clone();
            if self.ask(runtime, door, |reply| Request::Create(body, reply)).await.is_none() {
                return;
            }
        }
        self.note(Note::Issue(change.joint().clone()));
        let Some(took) = self.switch(runtime, change.joint(), &change.old(), true).await else {
            return;
        };
        let Some(goal) = change.goal(&took) else { return };
        marks::hit("operator.joint_taken");
        self.switch(runtime, change.joint(), &change.created(), false).await;
        if !self.wait_for_catch_up(runtime, change, goal).await {
            return;
        }
        self.note(Note::Issue(change.done().clone()));
        let done = change.done();
        let target = done.members.iter().map(|member| member.id).collect();
        let Some(took) = self.switch(runtime, done, &target, false).await else { return };
        if !change.is_complete(&took.into_keys().collect()) {
            return;
        }
        let old = change.joint().members.iter().map(|member| member.id);
        let gone: BTreeSet<NodeId> = old.filter(|id| !done.contains(*id)).collect();
        for door in self.doors.iter().filter(|door| gone.contains(&door.id)) {
            self.note(Note::Exclude(door.id));
            let (key, done) = (self.key, done.clone());
            self.ask(runtime, door, |reply| Request::Exclude(key, done, reply)).await;
        }
        marks::hit(match (change.added().is_empty(), gone.is_empty()) {
            (false, true) => "members.added",
            (true, _) => "members.removed",
            (false, false) => "members.replaced",
        });
        self.note(Note::Complete(done.clone(), gone));
    }

    async fn wait_for_catch_up(
        &self,
        runtime: &Runtime,
        change: &MembershipChange,
        goal: Standing,
    ) -> bool {
        for _ in 0..LOOKS_MAX {
            let mut standings = BTreeMap::new();
            for door in self.doors.iter().filter(|door| change.done().contains(door.id)) {
                let (key, bump) = (self.key, TermBump { term: Some(goal.term) });
                let raised =
                    self.ask(runtime, door, |reply| Request::BumpTerm(key, bump, reply)).await;
                if raised.is_some()
                    && let Some(standing) = self.standing(runtime, door).await
                {
                    standings.insert(door.id, standing);
                }
            }
            if change.has_caught_up(goal, &standings) {
                return true;
            }
            runtime.sleep(LOOK_INTERVAL).await;
        }
        false
    }

    /// Switches those of the nodes that answer, the lowest id first; where those stand that took it. `None`: he is `alone` to
    /// change the members, and one of them follows another change.
    async fn switch(
        &self,
        runtime: &Runtime,
        membership: &Membership,
        nodes: &BTreeSet<NodeId>,
        alone: bool,
    ) -> Option<BTreeMap<NodeId, Standing>> {
        let mut took = BTreeMap::new();
        for door in self.doors.iter().filter(|door| nodes.contains(&door.id)) {
            let (key, membership) = (self.key, membership.clone());
            let switched = self
                .answer(runtime, door, |reply| Request::SwitchMembership(key, membership, reply))
                .await;
            match switched {
                Some(Ok(_)) => {
                    let standing = self.standing(runtime, door).await;
                    took.extend(standing.map(|standing| (door.id, standing)));
                }
                Some(Err(ManagementError::Conflict(_))) if alone => return None,
                Some(Err(_)) | None => {}
            }
        }
        Some(took)
    }

    /// Of the nodes that answer: what they know of the timeline, or that they do not hold it.
    async fn statuses(&self, runtime: &Runtime) -> BTreeMap<NodeId, Option<TimelineStatus>> {
        let mut statuses = BTreeMap::new();
        for door in &self.doors {
            let key = self.key;
            match self.answer(runtime, door, |reply| Request::Status(key, reply)).await {
                Some(Ok(status)) => drop(statuses.insert(door.id, Some(status))),
                Some(Err(ManagementError::NotFound(_))) => drop(statuses.insert(door.id, None)),
                Some(Err(_)) | None => {}
            }
        }
        statuses
    }

    async fn standing(&self, runtime: &Runtime, door: &Door) -> Option<Standing> {
        let key = self.key;
        let status = self.ask(runtime, door, |reply| Request::Status(key, reply)).await?;
        Standing::of(&status)
    }

    /// `None`: no answer in time, or a refusal.
    async fn ask<T: Send + 'static>(
        &self,
        runtime: &Runtime,
        door: &Door,
        request: impl FnOnce(Reply<T>) -> Request,
    ) -> Option<T> {
        self.answer(runtime, door, request).await?.ok()
    }

    /// `None`: no answer in time.
    async fn answer<T: Send + 'static>(
        &self,
        runtime: &Runtime,
        door: &Door,
        request: impl FnOnce(Reply<T>) -> Request,
    ) -> Option<Result<T, ManagementError>> {
        let handle = door.handle()?;
        let asking = std::pin::pin!(handle.ask(self.key.tenant_id, request));
        let late = std::pin::pin!(runtime.sleep(ANSWER_MAX));
        match select(asking, late).await {
            Either::Left((answer, _)) => Some(answer),
            Either::Right(_) => None,
        }
    }

    fn note(&self, note: Note) {
        self.notes.borrow_mut().push(note);
    }

    /// Adds, removes or replaces a member. Who lost a disk goes first.
    fn draw_target(&self, present: &Membership) -> Option<Vec<Member>> {
        let random = &mut *self.random.borrow_mut();
        let mut target = present.members.clone();
        let all = self.doors.iter().map(|door| door.id);
        let strangers: Vec<NodeId> = all.filter(|id| !present.contains(*id)).collect();
        let damaged = target.iter().position(|member| self.damaged.contains(&member.id));
        let kind = random.below(3);
        if kind > 0 || damaged.is_some() {
            target.remove(damaged.unwrap_or_else(|| random.index(target.len())));
        }
        if kind != 1 && !strangers.is_empty() {
            let id = strangers[random.index(strangers.len())];
            target.push(Member { id, host: format!("node-{id}"), pg_port: NODE_PORT });
        }
        let whole = target.iter().filter(|member| !self.damaged.contains(&member.id)).count();
        (MEMBERS.contains(&target.len()) && whole >= majority_of(target.len())).then_some(target)
    }
}
