//! Who asked for whom: the parents and children among jobs.
//!
//! Kept in memory, by number: every open job that has a parent or a child, and of those that are over each
//! one with an open job below it. So cancelling a job finds all that is open below it, wherever those wait,
//! and reads nothing. A parent has a lower number than its children: it was there before them.
//!
//! All of it can be made again from the rows of the open jobs and of those above them, in whatever order
//! they come. Not here: what becomes of a job that is cancelled (`crate::steer`).

use std::collections::BTreeSet;

use axwatch_model::{
    Ancestor, Asked, JobId, JobNumber, JobRow, JobState, LaneKey, OpenAsked, Owner, Parent,
    PluginName, WatcherNumber,
};
use hashbrown::HashMap;

use crate::asked::SourceKey;
use crate::state::LaneId;

/// A job above another one: its parent, that one's parent, and so on.
#[derive(Debug, Clone, PartialEq)]
pub struct JobAbove {
    /// Its number.
    pub number: JobNumber,
    /// Its id.
    pub id: JobId,
    /// Where it is on its way, as the store has it.
    pub state: JobState,
    /// Its lane.
    pub lane: LaneKey,
    /// Who answers for its handler.
    pub plugin: Option<PluginName>,
    /// Whose it is; `None` of a fire.
    pub owner: Option<Owner>,
    /// The job above it.
    pub parent: Option<Parent>,
}

impl JobAbove {
    /// What those below a job need of it.
    #[must_use]
    pub fn of(row: &JobRow) -> JobAbove {
        let asked = row.asked.as_deref();
        JobAbove {
            number: row.number,
            id: row.id,
            state: row.state,
            lane: row.lane(),
            plugin: row.plugin.clone(),
            owner: asked.map(|asked| asked.owner.clone()),
            parent: asked.and_then(|asked| asked.parent),
        }
    }
}

/// The jobs that have a parent or children.
pub(crate) struct Kin {
    nodes: HashMap<JobNumber, Node>,
    /// The fires among them.
    fires: BTreeSet<(WatcherNumber, JobNumber)>,
    /// While jobs are recovered.
    recovering: Option<Recovering>,
}

/// What is known of jobs whose kin may yet be told of.
#[derive(Default)]
struct Recovering {
    /// Open jobs that may turn out to have children, and whose fires they are.
    lonely: HashMap<JobNumber, (LaneId, Option<WatcherNumber>)>,
    /// Jobs that were cancelled: what turns out to be open below them is to be cancelled too.
    cancelled: BTreeSet<JobNumber>,
}

/// A job that has a parent or children.
struct Node {
    id: JobId,
    parent: Option<Parent>,
    /// Those that have a node.
    children: BTreeSet<JobNumber>,
    /// Its lane, while it is open.
    lane: Option<LaneId>,
    watcher: Option<WatcherNumber>,
    source: Option<SourceKey>,
}

/// Which job it is, and what connects it with others.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Identity<'a> {
    pub number: JobNumber,
    pub id: JobId,
    pub handler: &'a str,
    pub watcher: Option<WatcherNumber>,
    pub asked: Option<&'a Asked>,
}

impl<'a> From<&'a JobRow> for Identity<'a> {
    fn from(row: &'a JobRow) -> Identity<'a> {
        let JobRow { number, id, handler, watcher, asked, .. } = row;
        let (number, id, watcher) = (*number, *id, *watcher);
        Identity { number, id, handler, watcher, asked: asked.as_deref() }
    }
}

impl<'a> From<&'a OpenAsked> for Identity<'a> {
    fn from(job: &'a OpenAsked) -> Identity<'a> {
        let OpenAsked { number, id, handler, asked, .. } = job;
        Identity { number: *number, id: *id, handler, watcher: None, asked: Some(asked) }
    }
}

/// What is known of an open job without its row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known {
    pub id: JobId,
    pub parent: Option<Parent>,
    pub lane: LaneId,
    /// Under which it stands among the sources of open jobs.
    pub source: Option<SourceKey>,
}

impl Kin {
    /// The kin of an earlier life: those that are over and have open ones below them. The open ones follow.
    pub fn new(over: &[Ancestor]) -> Kin {
        let mut kin = Kin {
            nodes: HashMap::new(),
            fires: BTreeSet::new(),
            recovering: Some(Recovering::default()),
        };
        for Ancestor { number, id, state, parent } in over {
            kin.node(*number, *id).parent = *parent;
            kin.link(*number, None, *parent);
            if *state == JobState::Cancelled {
                kin.cancelled_while_recovering(*number);
            }
        }
        kin
    }

    /// A job is open: a new one, one that is open again, or one that was recovered.
    pub fn opened(&mut self, job: Identity<'_>, lane: LaneId, source: Option<SourceKey>) {
        let Identity { number, id, watcher, .. } = job;
        let parent = job.asked.and_then(|asked| asked.parent);
        if parent.is_none() && !self.nodes.contains_key(&number) {
            if let Some(recovering) = &mut self.recovering {
                recovering.lonely.insert(number, (lane, watcher));
            }
            return;
        }
        let node = self.node(number, id);
        (node.parent, node.watcher) = (parent, watcher);
        (node.lane, node.source) = (Some(lane), source);
        self.link(number, watcher, parent);
    }

    /// Those above a job that is about to be open, the nearest first. What is known of one counts, and so it
    /// does of all above it; of the others `lanes` says where they are, if they are open.
    pub fn stand_above(&mut self, ancestors: &[JobAbove], lanes: &[Option<LaneId>]) {
        let unknown = ancestors.iter().take_while(|above| !self.nodes.contains_key(&above.number));
        let unknown = unknown.count();
        // From the top, so that each finds the one above it.
        for (ancestor, lane) in ancestors.iter().zip(lanes).take(unknown).rev() {
            self.insert_above(ancestor, *lane);
        }
    }

    fn insert_above(&mut self, ancestor: &JobAbove, lane: Option<LaneId>) {
        let node = self.node(ancestor.number, ancestor.id);
        (node.parent, node.watcher) = (ancestor.parent, ancestor.lane.watcher);
        node.lane = node.lane.or(lane);
        self.link(ancestor.number, ancestor.lane.watcher, ancestor.parent);
    }

    /// All open jobs of an earlier life have been told of. Gives the jobs that are cancelled and have open
    /// ones below them.
    pub fn recovery_done(&mut self) -> BTreeSet<JobNumber> {
        let recovering = self.recovering.take().unwrap_or_default();
        let over = self.nodes.iter().filter(|(_, node)| node.lane.is_none());
        for number in over.map(|(number, _)| *number).collect::<BTreeSet<_>>() {
            self.forget_if_useless(number);
        }
        recovering.cancelled
    }

    fn cancelled_while_recovering(&mut self, number: JobNumber) {
        if let Some(recovering) = &mut self.recovering {
            recovering.cancelled.insert(number);
        }
    }

    fn node(&mut self, number: JobNumber, id: JobId) -> &mut Node {
        let lonely = self.recovering.as_mut().and_then(|known| known.lonely.remove(&number));
        let (lane, watcher) = lonely.map_or((None, None), |(lane, of)| (Some(lane), of));
        self.fires.extend(watcher.map(|watcher| (watcher, number)));
        self.nodes.entry(number).or_insert_with(|| Node {
            id,
            parent: None,
            children: BTreeSet::new(),
            lane,
            watcher,
            source: None,
        })
    }

    fn link(&mut self, number: JobNumber, watcher: Option<WatcherNumber>, parent: Option<Parent>) {
        self.fires.extend(watcher.map(|watcher| (watcher, number)));
        if let Some(Parent { number: parent, id }) = parent {
            self.node(parent, id).children.insert(number);
        }
    }

    /// A job is over, in this state.
    pub fn closed(&mut self, number: JobNumber, state: JobState) {
        if let Some(recovering) = &mut self.recovering {
            recovering.lonely.remove(&number);
        }
        if state == JobState::Cancelled {
            self.cancelled_while_recovering(number);
        }
        let Some(node) = self.nodes.get_mut(&number) else { return };
        (node.lane, node.source) = (None, None);
        // While jobs are recovered those below it may be yet to come.
        if self.recovering.is_none() {
            self.forget_if_useless(number);
        }
    }

    /// Forgets a job that has nobody open below it, unless it is open and has a parent; and then those above
    /// it that were kept for its sake.
    fn forget_if_useless(&mut self, number: JobNumber) {
        let mut next = Some(number);
        while let Some(number) = next.take() {
            let Some(node) = self.nodes.get(&number) else { return };
            let is_kin = node.lane.is_some() && node.parent.is_some();
            if is_kin || !node.children.is_empty() {
                return;
            }
            let node = self.nodes.remove(&number).expect("looked up above");
            if let Some(watcher) = node.watcher {
                self.fires.remove(&(watcher, number));
            }
            if let Some(Parent { number: parent, .. }) = node.parent
                && let Some(above) = self.nodes.get_mut(&parent)
            {
                above.children.remove(&number);
                next = Some(parent);
            }
        }
    }

    /// The open jobs below one, by number.
    pub fn open_below(&self, number: JobNumber) -> BTreeSet<JobNumber> {
        let mut open = BTreeSet::new();
        let mut next = vec![number];
        while let Some(number) = next.pop() {
            let Some(node) = self.nodes.get(&number) else { continue };
            for child in &node.children {
                next.push(*child);
                if self.nodes.get(child).is_some_and(|child| child.lane.is_some()) {
                    open.insert(*child);
                }
            }
        }
        open
    }

    /// The id of a job that has a parent or children.
    pub fn id(&self, number: JobNumber) -> Option<JobId> {
        self.nodes.get(&number).map(|node| node.id)
    }

    /// Whether a job has open ones below it.
    pub fn has_below(&self, number: JobNumber) -> bool {
        self.nodes.get(&number).is_some_and(|node| !node.children.is_empty())
    }

    /// An open job that has a parent or children.
    pub fn known(&self, number: JobNumber) -> Option<Known> {
        let Node { id, parent, lane, source, .. } = *self.nodes.get(&number)?;
        Some(Known { id, parent, lane: lane?, source })
    }

    /// The fires of a watcher that have open jobs below them and are open themselves.
    pub fn open_fires(&self, watcher: WatcherNumber) -> Vec<JobNumber> {
        let of_it = (watcher, JobNumber(0))..=(watcher, JobNumber(u64::MAX));
        let fires = self.fires.range(of_it).map(|(_, number)| *number);
        fires.filter(|number| self.nodes[number].lane.is_some()).collect()
    }
}
