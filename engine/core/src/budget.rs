//! Budgets: how many calls and how much money the jobs of a handler, of a plugin, or all of them may take.
//!
//! Each scope has an account of what was called and spent, whether or not it has a budget. An attempt that
//! may start reserves what it is expected to cost: the estimate of its job, or else what the dearest run of
//! its handler has cost so far. What was spent and what is reserved never pass a budget together by the start
//! of an attempt, so what is overspent is at most what attempts under way cost more than they reserved. One
//! of which nothing is known, or whose handler had a run that was dearer than the whole budget, reserves all
//! that is left of that budget, and nothing under it that costs something starts beside it.
//!
//! A lane that a budget holds back leaves its plugin's turns and stands in the line of that budget. The first
//! of the line is called when something becomes free: when an attempt has ended, when what was spent counts
//! no more, when a budget was changed. Holding a lane back is told of in the audit, and that it is over when its
//! next attempt starts.
//!
//! Accounts survive in the rows of minutes; of the calls before a restart it is known only in which minute
//! they were, so the last moment of it counts. Reservations do not: no attempt survives either.
//!
//! Not here: the arithmetic of the accounts (`crate::ledger`), what an attempt cost (`crate::progress`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::time::Duration;

use axwatch_model::{
    Asker, BudgetRow, BudgetScope, HandlerName, HandlerSpendRow, JobNumber, LeafNumber, Mono, Now,
    PluginName, SpendRow, Timestamp, amount_of_nanos, nanos_of_amount,
};

use crate::event::{Answer, BudgetChange, Effect, Refusal, RefusalKind};
use crate::ledger::{CALLS_WINDOW, Calls, Span, Spending, begin_of, minute_of};
use crate::outcome::Outcome;
use crate::policy::BudgetLimits;
use crate::record::{BudgetHeldRecord, BudgetSetRecord, BudgetWarning, Record};
use crate::state::{LaneId, State, Timer};

/// A warning is given when so much of a budget is used, and again only when it was less than so much.
const WARNED_PERCENT: i128 = 80;
const WARNED_ANEW_PERCENT: i128 = 70;
/// Of calls no more often than this.
const WARNED_OF_CALLS_EVERY: Duration = Duration::from_secs(60 * 60);
/// Whoever waits for the wall clock looks at it at least so often: it may be set.
const LOOKED_AT_EVERY: Duration = Duration::from_secs(30);
/// Rows of minutes are kept for 32 days, and looked through so often.
const MINUTES_KEPT: i64 = 32 * 1_440;
const RETAINED_EVERY: Duration = Duration::from_secs(60 * 60);
/// Rows of minutes are taken away after so many new ones as well.
const ROWS_PER_RETENTION: usize = 256;
/// So many of those times back a clock that is set wrong takes nothing away: a day.
const TIMES_REMEMBERED: usize = 24;
/// Those in a line that are looked at in one call.
const LOOKED_AT_AT_ONCE: u64 = 64;
/// What is free so soon is kept for the first in line.
const KEPT_FOR_FIRST: Duration = Duration::from_secs(10 * 60);
/// Minutes with calls that a handler remembers: the clock may be set back, and the row of a minute that comes again
/// is written with the calls that were in it before.
const MINUTES_OF_CALLS: usize = 1_440;
/// Minutes in which an attempt under way told of a cost, of which it may take some back.
const MINUTES_CHARGED_MAX: usize = 1_440;

/// What of a budget is used up, or nearly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum BudgetKind {
    /// Calls in 60 seconds.
    Calls,
    /// Money in a day, a week or 30 days.
    Spend(Span),
}

impl BudgetKind {
    /// All of them.
    pub const ALL: [BudgetKind; 4] = [
        BudgetKind::Calls,
        BudgetKind::Spend(Span::Day),
        BudgetKind::Spend(Span::Week),
        BudgetKind::Spend(Span::Month),
    ];

    /// Its name, as in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            BudgetKind::Calls => "calls_per_minute",
            BudgetKind::Spend(Span::Day) => "per_day",
            BudgetKind::Spend(Span::Week) => "per_week",
            BudgetKind::Spend(Span::Month) => "per_month",
        }
    }
}

impl fmt::Display for BudgetKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What a scope has used, and what it may.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Used {
    /// Calls of the last 60 seconds, those that were decided and have not left yet among them.
    pub calls: u64,
    /// How many there may be.
    pub calls_max: Option<u32>,
    /// What counts as spent in a day, a week and 30 days.
    pub spent: [f64; 3],
    /// What may be spent in each.
    pub spent_max: [Option<f64>; 3],
    /// What attempts under way have reserved and not spent yet.
    pub reserved: f64,
    /// One of them has reserved all that is left.
    pub all_reserved: bool,
}

impl Used {
    /// What may be spent yet, by the budget that leaves the least.
    #[must_use]
    pub fn left(&self) -> Option<f64> {
        Span::ALL.into_iter().filter_map(|span| self.left_of(span)).reduce(f64::min)
    }

    /// What may be spent yet in a day, a week or 30 days; `None` without such a budget.
    #[must_use]
    pub fn left_of(&self, span: Span) -> Option<f64> {
        // In whole billionths, as it is reckoned.
        let nanos = |amount: f64| (amount * 1e9).round() as i128;
        let limit = nanos(self.spent_max[span as usize]?);
        let left = limit - nanos(self.spent[span as usize]) - nanos(self.reserved);
        Some(amount(if self.all_reserved { 0 } else { left.max(0) }))
    }

    /// How many calls there may be yet.
    #[must_use]
    pub fn calls_left(&self) -> Option<u64> {
        self.calls_max.map(|max| u64::from(max).saturating_sub(self.calls))
    }
}

/// A budget and what has been used of it.
#[derive(Debug, Clone, PartialEq)]
pub struct BudgetView {
    /// Whose jobs it is for.
    pub scope: BudgetScope,
    /// What has been used.
    pub used: Used,
    /// What was set with a command; the rest of it is as the configuration says.
    pub row: Option<BudgetRow>,
    /// Lanes that wait for it.
    pub held_lanes: u64,
    /// Why the first of them does.
    pub held_by: Option<BudgetHold>,
}

/// The figures of one handler.
#[derive(Debug, Clone, PartialEq)]
pub struct Pulse {
    /// What the handler's own jobs have used.
    pub used: Used,
    /// Calls that may begin yet, by the tightest budget that covers it; `None` without one.
    pub calls_left: Option<u64>,
    /// What may be spent yet, by the tightest budget that covers it; `None` without one.
    pub spend_left: Option<f64>,
    /// The budget that lets no further job of it start.
    pub held_by: Option<BudgetHold>,
}

/// Why a budget lets a job not start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BudgetHold {
    /// Whose budget.
    pub scope: BudgetScope,
    /// What of it.
    pub kind: BudgetKind,
    /// When it may go on, as far as that is known by now.
    pub until: Option<Timestamp>,
    /// What of it there is not.
    pub cause: HoldCause,
}

/// What a budget has not for a job that it holds back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HoldCause {
    /// Nothing is left.
    UsedUp,
    /// What is left is reserved for attempts under way: it goes on when one of them costs less, or its budget
    /// forgets what was spent before.
    Reserved,
    /// Something is left, and less than the job is expected to cost; in billionths.
    TooLittle {
        /// What may be spent yet, and is not reserved.
        left: i64,
        /// What the job is expected to cost.
        expected: i64,
    },
    /// The job's estimate alone is more than the whole budget.
    TooDear,
}

/// `budget per_day of git/ixgest.git is used up`.
impl fmt::Display for BudgetHold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "budget {} of {}{}", self.kind, self.scope, self.cause)
    }
}

/// What is said of a budget, behind its name.
impl fmt::Display for HoldCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |nanos: &i64| amount_text(i128::from(*nanos));
        match self {
            HoldCause::UsedUp => f.write_str(" is used up"),
            HoldCause::Reserved => f.write_str(": what is left is reserved for jobs under way"),
            HoldCause::TooLittle { left, expected } => {
                let (left, expected) = (text(left), text(expected));
                write!(f, ": {left} is left, and the job is expected to cost {expected}")
            }
            HoldCause::TooDear => f.write_str(": the job's estimate is more than all of it"),
        }
    }
}

/// All accounts and budgets.
pub(crate) struct Budgets {
    /// What was set with commands.
    rows: BTreeMap<BudgetScope, BudgetRow>,
    all: Account,
    plugins: BTreeMap<PluginName, OfPlugin>,
    handlers: Vec<OfHandler>,
    /// Some account has a limit.
    any: bool,
    /// What attempts under way have reserved.
    reservations: BTreeMap<JobNumber, Reservation>,
    /// In which minutes attempts under way told of their cost, in the order in which they did, and of how much.
    charged: BTreeMap<JobNumber, VecDeque<(i64, i64)>>,
    /// Those that wait for a budget.
    lines: BTreeMap<BudgetScope, Line>,
    /// Those that may let another attempt start, once all has been pumped.
    to_call: BTreeSet<BudgetScope>,
    /// Lanes that a budget let go on in the step at hand, and the job that started.
    freeing: BTreeMap<LaneId, JobNumber>,
    /// The moment of the step at hand.
    now: Now,
    /// Handlers of which a minute is to be written, and which.
    unwritten: BTreeSet<(usize, i64)>,
    /// Handlers whose dearest run is another.
    dearer: BTreeSet<usize>,
    /// When it was last thought of which rows may go, and which minute it was then and the times before.
    retained: (Mono, VecDeque<i64>),
    /// Rows that were written since some were last taken away for that.
    written: usize,
    /// So often is the store to be asked to take some away.
    asks: usize,
    /// Warnings that nobody was told of yet.
    pub warnings: Vec<Effect>,
}

#[derive(Default)]
struct OfPlugin {
    account: Account,
    handlers: BTreeMap<HandlerName, usize>,
}

struct OfHandler {
    plugin: PluginName,
    name: HandlerName,
    account: Account,
    /// Calls by the minute.
    calls: BTreeMap<i64, u32>,
    /// What its dearest run has cost, in billionths; `None` while none has ended.
    dearest: Option<i64>,
}

/// What the jobs of a scope have used, and what they may.
#[derive(Default)]
struct Account {
    spending: Spending,
    calls: Calls,
    limits: Limits,
    reserved: i128,
    /// Attempts that have reserved all that is left.
    alone: BTreeSet<JobNumber>,
    /// Of which of [`BudgetKind::ALL`] a warning was given.
    warned: [bool; 4],
    /// When one was last given of its calls.
    warned_of_calls: Option<Mono>,
}

/// The limits in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Limits {
    calls: Option<u32>,
    /// By [`Span`], in billionths.
    spend: [Option<i64>; 3],
}

impl Limits {
    fn any(&self) -> bool {
        self.calls.is_some() || self.spend.iter().any(Option::is_some)
    }
}

/// What an attempt under way has reserved and not spent yet, of those budgets of which it has not all that is left.
struct Reservation {
    handler: usize,
    /// What it is expected to cost, and what it has cost so far.
    expected: i64,
    spent: i64,
}

impl Reservation {
    /// What is reserved of it yet.
    fn rest(&self) -> i64 {
        self.expected.saturating_sub(self.spent).clamp(0, self.expected)
    }
}

/// What an attempt is expected to cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    /// Its job says so.
    Estimate(i64),
    /// No run of its handler was dearer.
    Dearest(i64),
    /// No run of its handler has ended.
    Unknown,
}

/// Why an attempt may not start.
struct Refused {
    hold: BudgetHold,
    /// When to look again, if that is known.
    until: Option<Mono>,
    /// When so much counts no more that it may start for sure, if it is known.
    frees: Option<Timestamp>,
}

/// The lanes that wait for a budget.
#[derive(Default)]
struct Line {
    lanes: BTreeMap<u64, LaneId>,
    last_ticket: u64,
    /// Behind this one the next call goes on.
    looked_at: u64,
    /// Those that were called and have not started yet.
    called: BTreeSet<LaneId>,
    timer: Option<Mono>,
}

/// A budget holds a lane back, or did until just now.
#[derive(Debug)]
pub(crate) struct Held {
    pub hold: BudgetHold,
    since: Mono,
    /// Its place in the line, and since when it stands there; `None` when it was called.
    ticket: Option<(u64, Mono)>,
    /// The last place that it had in it.
    place: Option<u64>,
    /// The record that tells of it.
    leaf: LeafNumber,
    /// When the next attempt of the lane started. What waited then may not have started yet.
    freed_at: Option<Timestamp>,
    /// The record that tells of that.
    freed: Option<LeafNumber>,
}

impl Held {
    /// Whether the lane stands in line.
    pub fn waits(&self) -> bool {
        self.ticket.is_some()
    }

    /// How long it has stood in line by now, since it was last called.
    pub fn waited(&self, now: Mono) -> Duration {
        self.ticket.map_or(Duration::ZERO, |(_, since)| now.since(since))
    }
}

impl Account {
    fn begin(&mut self, now: Now) {
        self.spending.set_minute(minute_of(now.wall));
        self.calls.forget(now.mono);
    }

    /// What may be reserved yet of a limit.
    fn left(&self, span: Span, limit: i64, minute: i64) -> i128 {
        let unspent = i128::from(limit) - self.spending.sum(span, minute);
        if self.alone.is_empty() { unspent - self.reserved } else { unspent.min(0) }
    }

    /// What of a budget lets the attempt not start, why, and from which minute on it may.
    fn refuses_spend(
        &self,
        expected: Expected,
        now: Now,
    ) -> Option<(Span, HoldCause, Option<i64>)> {
        let minute = minute_of(now.wall);
        Span::ALL.into_iter().find_map(|span| {
            let limit = self.limits.spend[span as usize]?;
            let left = self.left(span, limit, minute);
            let wanted = match expected {
                Expected::Estimate(nanos) => i128::from(nanos),
                Expected::Dearest(nanos) if nanos <= limit => i128::from(nanos),
                // Something has to be left, and all of it is reserved.
                Expected::Dearest(_) | Expected::Unknown => 1,
            };
            if wanted <= left {
                return None;
            }
            let too_dear = matches!(expected, Expected::Estimate(nanos) if nanos > limit);
            let unspent = i128::from(limit) - self.spending.sum(span, minute);
            let billionths = |nanos: i128| i64::try_from(nanos).unwrap_or(i64::MAX);
            let cause = match unspent {
                _ if too_dear => HoldCause::TooDear,
                ..=0 => HoldCause::UsedUp,
                _ if wanted <= unspent => HoldCause::Reserved,
                _ => HoldCause::TooLittle {
                    left: billionths(left.max(0)),
                    expected: billionths(wanted),
                },
            };
            let frees = || self.spending.frees(span, minute, wanted - left);
            let from = if too_dear || !self.alone.is_empty() { None } else { frees() };
            Some((span, cause, from))
        })
    }

    /// Whether there is no call left but those that are kept for others, and when there is one.
    fn refuses_call(&self, kept: u64, now: Mono) -> Option<Option<Mono>> {
        let limit = self.limits.calls?;
        let count = self.calls.count(now);
        if count < u64::from(limit) {
            // They start in this very step, or are not waited for.
            return (count + kept >= u64::from(limit)).then_some(None);
        }
        Some(self.calls.opens_at(limit, now))
    }

    /// Whether an attempt that is expected to cost so much reserves all that is left here.
    fn wants_all(&self, expected: Expected) -> bool {
        let mut limits = self.limits.spend.iter().flatten();
        match expected {
            Expected::Estimate(_) => false,
            Expected::Dearest(nanos) => limits.any(|limit| nanos > *limit),
            Expected::Unknown => limits.next().is_some(),
        }
    }

    fn used(&self, now: Now) -> Used {
        let minute = minute_of(now.wall);
        Used {
            calls: self.calls.count(now.mono),
            calls_max: self.limits.calls,
            spent: Span::ALL.map(|span| amount(self.spending.sum(span, minute))),
            spent_max: self.limits.spend.map(|limit| limit.map(amount_of_nanos)),
            reserved: amount(self.reserved),
            all_reserved: !self.alone.is_empty(),
        }
    }

    /// How much of a limit is used, and the limit.
    fn used_of(&self, kind: BudgetKind, now: Now) -> Option<(i128, i128)> {
        match kind {
            BudgetKind::Calls => {
                Some((i128::from(self.calls.count(now.mono)), i128::from(self.limits.calls?)))
            }
            BudgetKind::Spend(span) => {
                let limit = self.limits.spend[span as usize]?;
                Some((self.spending.sum(span, minute_of(now.wall)), i128::from(limit)))
            }
        }
    }

    /// Calls are used up and free again from one minute to the next: that is told of now and then.
    fn may_warn_of(&mut self, kind: BudgetKind, now: Mono) -> bool {
        if kind != BudgetKind::Calls {
            return true;
        }
        let last = self.warned_of_calls;
        let may = last.is_none_or(|last| now.since(last) >= WARNED_OF_CALLS_EVERY);
        self.warned_of_calls = if may { Some(now) } else { last };
        may
    }

    /// The limits of which so much is used now that somebody should know.
    fn warnings(&mut self, now: Now) -> Vec<(BudgetKind, i128, i128)> {
        let mut found = Vec::new();
        for (at, kind) in BudgetKind::ALL.into_iter().enumerate() {
            let Some((used, limit)) = self.used_of(kind, now) else {
                self.warned[at] = false;
                continue;
            };
            if used * 100 >= limit * WARNED_PERCENT {
                let is_due = !std::mem::replace(&mut self.warned[at], true);
                if is_due && self.may_warn_of(kind, now.mono) {
                    found.push((kind, used, limit));
                }
            } else if used * 100 < limit * WARNED_ANEW_PERCENT {
                self.warned[at] = false;
            }
        }
        found
    }
}

impl Budgets {
    pub fn new(now: Now) -> Budgets {
        let mut all = Account::default();
        all.begin(now);
        Budgets {
            rows: BTreeMap::new(),
            all,
            plugins: BTreeMap::new(),
            handlers: Vec::new(),
            any: false,
            reservations: BTreeMap::new(),
            charged: BTreeMap::new(),
            lines: BTreeMap::new(),
            to_call: BTreeSet::new(),
            freeing: BTreeMap::new(),
            now,
            unwritten: BTreeSet::new(),
            dearer: BTreeSet::new(),
            retained: (now.mono, VecDeque::from([minute_of(now.wall)])),
            written: 0,
            asks: 0,
            warnings: Vec::new(),
        }
    }

    /// What an earlier life left, and what the configuration says.
    pub fn restore(
        &mut self,
        rows: Vec<BudgetRow>,
        (spends, dearest): (Vec<SpendRow>, Vec<HandlerSpendRow>),
        configured: &BTreeMap<BudgetScope, BudgetLimits>,
    ) {
        let present = minute_of(self.now.wall);
        // When the clock is ahead, the last row tells more of the present than the clock.
        let last = spends.iter().map(|row| row.minute).max();
        self.retained.1 = VecDeque::from([last.map_or(present, |last| last.min(present))]);
        for row in spends {
            let handler = self.handler(&row.plugin, &row.handler);
            let before = self.now.wall.since(begin_of(row.minute.saturating_add(1)));
            let calls_at = Mono(self.now.mono.0.saturating_sub(nanos_u64(before)));
            let minute = row.minute;
            self.each(handler, |account| {
                account.spending.add(minute, row.nanos);
                let is_recent = before < CALLS_WINDOW && minute <= present + 1;
                if is_recent && row.calls > 0 {
                    account.calls.add(calls_at, row.calls);
                }
            });
            self.count_calls(handler, minute, row.calls);
        }
        for row in dearest {
            let handler = self.handler(&row.plugin, &row.handler);
            self.handlers[handler].dearest = nanos_of_amount(row.dearest);
        }
        self.rows = rows.into_iter().map(|row| (row.scope.clone(), row)).collect();
        let scopes: BTreeSet<_> = self.rows.keys().chain(configured.keys()).cloned().collect();
        for scope in &scopes {
            self.set_limits(scope, configured.get(scope).copied().unwrap_or_default());
            let account = self.account_mut(scope);
            if let Some(limit) = account.limits.calls.filter(|limit| *limit > 0) {
                account.calls.keep_latest(limit);
            }
        }
    }

    /// A step begins.
    pub fn begin(&mut self, now: Now) {
        let is_other = minute_of(now.wall) != minute_of(self.now.wall);
        self.now = now;
        if is_other {
            self.all.begin(now);
            self.plugins.values_mut().for_each(|plugin| plugin.account.begin(now));
            self.handlers.iter_mut().for_each(|handler| handler.account.begin(now));
        }
    }

    /// The handler's place, made when it has none yet.
    fn handler(&mut self, plugin: &PluginName, name: &HandlerName) -> usize {
        let known = self.plugins.get(plugin).and_then(|plugin| plugin.handlers.get(name));
        if let Some(at) = known {
            return *at;
        }
        let at = self.handlers.len();
        let mut account = Account::default();
        account.begin(self.now);
        self.handlers.push(OfHandler {
            plugin: plugin.clone(),
            name: name.clone(),
            account,
            calls: BTreeMap::new(),
            dearest: None,
        });
        self.plugin(plugin).handlers.insert(name.clone(), at);
        at
    }

    fn plugin(&mut self, name: &PluginName) -> &mut OfPlugin {
        let now = self.now;
        self.plugins.entry(name.clone()).or_insert_with(|| {
            let mut plugin = OfPlugin::default();
            plugin.account.begin(now);
            plugin
        })
    }

    fn account_mut(&mut self, scope: &BudgetScope) -> &mut Account {
        match scope {
            BudgetScope::All => &mut self.all,
            BudgetScope::Plugin(plugin) => &mut self.plugin(plugin).account,
            BudgetScope::Handler(plugin, name) => {
                let at = self.handler(plugin, name);
                &mut self.handlers[at].account
            }
        }
    }

    fn account(&self, scope: &BudgetScope) -> Option<&Account> {
        match scope {
            BudgetScope::All => Some(&self.all),
            BudgetScope::Plugin(plugin) => Some(&self.plugins.get(plugin)?.account),
            BudgetScope::Handler(plugin, name) => {
                let at = *self.plugins.get(plugin)?.handlers.get(name)?;
                Some(&self.handlers[at].account)
            }
        }
    }

    /// The accounts that cover a handler.
    fn each(&mut self, handler: usize, mut tell: impl FnMut(&mut Account)) {
        let OfHandler { plugin, account, .. } = &mut self.handlers[handler];
        tell(account);
        tell(&mut self.plugins.get_mut(plugin).expect("each handler has its plugin").account);
        tell(&mut self.all);
    }

    fn scopes_of(&self, handler: usize) -> [BudgetScope; 3] {
        let OfHandler { plugin, name, .. } = &self.handlers[handler];
        [
            BudgetScope::Handler(plugin.clone(), name.clone()),
            BudgetScope::Plugin(plugin.clone()),
            BudgetScope::All,
        ]
    }

    /// What is set for a scope wins over what is configured, key by key.
    fn set_limits(&mut self, scope: &BudgetScope, configured: BudgetLimits) {
        let row = self.rows.get(scope);
        let spend = |of_row: fn(&BudgetRow) -> Option<f64>, configured: Option<f64>| {
            row.and_then(of_row).or(configured).and_then(nanos_of_amount)
        };
        let limits = Limits {
            calls: row.and_then(|row| row.calls_per_minute).or(configured.calls_per_minute),
            spend: [
                spend(|row| row.per_day, configured.per_day),
                spend(|row| row.per_week, configured.per_week),
                spend(|row| row.per_month, configured.per_month),
            ],
        };
        self.account_mut(scope).limits = limits;
        let plugins = self.plugins.values().map(|plugin| &plugin.account);
        let handlers = self.handlers.iter().map(|handler| &handler.account);
        let mut accounts = std::iter::once(&self.all).chain(plugins).chain(handlers);
        self.any = accounts.any(|account| account.limits.any());
    }

    fn count_calls(&mut self, handler: usize, minute: i64, calls: u32) {
        let of_handler = &mut self.handlers[handler];
        let count = of_handler.calls.entry(minute).or_default();
        *count = count.saturating_add(calls);
        while of_handler.calls.len() > MINUTES_OF_CALLS {
            // After the clock was set back the present minute is the first.
            match of_handler.calls.first_key_value() {
                Some((first, _)) if *first == minute => of_handler.calls.pop_last(),
                _ => of_handler.calls.pop_first(),
            };
        }
    }

    fn expected(&self, handler: usize, estimate: Option<f64>) -> Expected {
        match (estimate.and_then(nanos_of_amount), self.handlers[handler].dearest) {
            (Some(nanos), _) => Expected::Estimate(nanos),
            (None, Some(nanos)) => Expected::Dearest(nanos),
            (None, None) => Expected::Unknown,
        }
    }

    /// Whether an attempt of a handler may start now; in this lane, if it is asked for one.
    fn check(
        &self,
        (plugin, name): (&PluginName, &HandlerName),
        lane_id: Option<LaneId>,
        estimate: Option<f64>,
        now: Now,
    ) -> Result<(), Refused> {
        let of_plugin = self.plugins.get(plugin);
        let handler = of_plugin.and_then(|of_plugin| of_plugin.handlers.get(name)).copied();
        let expected = handler.map_or_else(
            || estimate.and_then(nanos_of_amount).map_or(Expected::Unknown, Expected::Estimate),
            |at| self.expected(at, estimate),
        );
        let of_handler = handler.map(|at| &self.handlers[at].account);
        let accounts = [of_handler, of_plugin.map(|plugin| &plugin.account), Some(&self.all)];
        let scope = |at: usize| match at {
            0 => BudgetScope::Handler(plugin.clone(), name.clone()),
            1 => BudgetScope::Plugin(plugin.clone()),
            _ => BudgetScope::All,
        };
        for (at, account) in accounts.into_iter().enumerate() {
            let Some(account) = account.filter(|account| account.limits.any()) else { continue };
            // Calls are free again within a minute: what takes longer is told first.
            if let Some((span, cause, minute)) = account.refuses_spend(expected, now) {
                let frees = minute.map(begin_of);
                let (scope, kind) = (scope(at), BudgetKind::Spend(span));
                // Sooner, if what is under way costs less than it has reserved.
                let until = frees.filter(|_| cause != HoldCause::Reserved);
                let hold = BudgetHold { scope, kind, until, cause };
                let wait = frees.map(|frees| frees.since(now.wall).min(LOOKED_AT_EVERY));
                return Err(Refused { hold, until: wait.map(|wait| now.mono.plus(wait)), frees });
            }
            let is_waited_for = !self.lines.is_empty();
            let kept = if is_waited_for { self.kept_for_others(&scope(at), lane_id) } else { 0 };
            if let Some(until) = account.refuses_call(kept, now.mono) {
                let wall = until.map(|at| now.wall.plus(at.since(now.mono)));
                let (scope, kind, cause) = (scope(at), BudgetKind::Calls, HoldCause::UsedUp);
                let hold = BudgetHold { scope, kind, until: wall, cause };
                return Err(Refused { hold, until, frees: None });
            }
        }
        Ok(())
    }

    /// Calls of a budget that are kept for lanes that were called.
    fn kept_for_others(&self, scope: &BudgetScope, lane_id: Option<LaneId>) -> u64 {
        let Some(line) = self.lines.get(scope) else { return 0 };
        let is_called = lane_id.is_some_and(|lane_id| line.called.contains(&lane_id));
        line.called.len() as u64 - u64::from(is_called)
    }

    /// An attempt of a handler starts: its call is counted, and what it is expected to cost is reserved.
    fn started(
        &mut self,
        number: JobNumber,
        plugin: &PluginName,
        name: &HandlerName,
        estimate: Option<f64>,
    ) -> usize {
        let handler = self.handler(plugin, name);
        let minute = minute_of(self.now.wall);
        self.count_calls(handler, minute, 1);
        self.unwritten.insert((handler, minute));
        let expected = self.expected(handler, estimate);
        let nanos = match expected {
            Expected::Estimate(nanos) | Expected::Dearest(nanos) => nanos,
            Expected::Unknown => 0,
        };
        let mut alone = false;
        self.each(handler, |account| {
            account.calls.decide();
            if account.wants_all(expected) {
                alone = true;
                account.alone.insert(number);
            } else {
                account.reserved += i128::from(nanos);
            }
        });
        if alone || nanos > 0 {
            let reservation = Reservation { handler, expected: nanos, spent: 0 };
            self.reservations.insert(number, reservation);
        }
        handler
    }

    /// An attempt of a handler leaves, now or later.
    fn left(&mut self, handler: usize, at: Mono) {
        let now = self.now.mono;
        self.each(handler, |account| {
            account.calls.forget(now);
            account.calls.leave(at);
        });
    }

    /// An attempt costs so much more than it did before, or less. What it has reserved is the rest of what it is
    /// expected to cost.
    fn spent(&mut self, number: JobNumber, handler: usize, nanos: i64) {
        let reservation = self.reservations.get_mut(&number);
        let reserved = reservation.map_or(0, |reservation| {
            let before = reservation.rest();
            reservation.spent = reservation.spent.saturating_add(nanos);
            before - reservation.rest()
        });
        let minutes = self.minutes_of_charge(number, nanos);
        self.each(handler, |account| {
            minutes.iter().for_each(|(minute, nanos)| account.spending.add(*minute, *nanos));
            if !account.alone.contains(&number) {
                account.reserved -= i128::from(reserved);
            }
        });
        self.unwritten.extend(minutes.into_iter().map(|(minute, _)| (handler, minute)));
    }

    /// In which minutes so much more, or less, of an attempt counts. What it takes back it takes from the minutes in
    /// which it told of it, the latest first: in the present one it would be room in the budget for as long as it
    /// counts after what it takes back counts no more.
    fn minutes_of_charge(&mut self, number: JobNumber, nanos: i64) -> Vec<(i64, i64)> {
        let present = minute_of(self.now.wall);
        let charged = self.charged.entry(number).or_default();
        if nanos >= 0 {
            match charged.back_mut() {
                Some((minute, sum)) if *minute == present => *sum = sum.saturating_add(nanos),
                _ => charged.push_back((present, nanos)),
            }
            if charged.len() > MINUTES_CHARGED_MAX {
                charged.pop_front();
            }
            return vec![(present, nanos)];
        }
        let mut minutes = Vec::new();
        let mut rest = nanos.saturating_neg();
        while rest > 0 {
            let Some((minute, sum)) = charged.pop_back() else {
                // It was told of more than a day ago.
                minutes.push((present, -rest));
                break;
            };
            let back = sum.min(rest);
            rest -= back;
            minutes.push((minute, -back));
            charged.extend((sum > back).then_some((minute, sum - back)));
        }
        minutes
    }

    /// An attempt is over: what it had reserved is free again.
    fn over(&mut self, number: JobNumber) {
        self.charged.remove(&number);
        let Some(reservation) = self.reservations.remove(&number) else { return };
        self.each(reservation.handler, |account| {
            if !account.alone.remove(&number) {
                account.reserved -= i128::from(reservation.rest());
            }
        });
    }

    /// Those that wait for one of the budgets that cover a handler may be called.
    fn call_for(&mut self, handler: usize) {
        if !self.lines.is_empty() {
            let scopes = self.scopes_of(handler);
            self.to_call.extend(scopes.into_iter().filter(|scope| self.lines.contains_key(scope)));
        }
    }

    /// Who stands in the line of a budget behind this ticket.
    fn next_in_line(&self, scope: &BudgetScope, ticket: u64) -> Option<(u64, LaneId)> {
        let behind = self.lines.get(scope)?.lanes.range(ticket + 1..).next();
        behind.map(|(ticket, lane_id)| (*ticket, *lane_id))
    }

    /// Whom to look at after this ticket. Behind the first it goes on where it ended the last time.
    fn next_looked_at(
        &mut self,
        scope: &BudgetScope,
        ticket: u64,
        is_first: bool,
    ) -> Option<(u64, LaneId)> {
        let line = self.lines.get(scope)?;
        let from = if is_first { ticket.max(line.looked_at) } else { ticket };
        let next = self.next_in_line(scope, from);
        self.lines.get_mut(scope)?.looked_at = if next.is_some() { from } else { 0 };
        next
    }

    /// How many calls a budget would let begin now.
    fn calls_left(&self, scope: &BudgetScope) -> u64 {
        let account = self.account(scope);
        let limit = account.and_then(|account| Some((account, account.limits.calls?)));
        limit.map_or(u64::MAX, |(account, limit)| {
            u64::from(limit).saturating_sub(account.calls.count(self.now.mono)).max(1)
        })
    }

    fn forget_line(&mut self, scope: &BudgetScope) {
        let is_done =
            |line: &Line| line.lanes.is_empty() && line.called.is_empty() && line.timer.is_none();
        if self.lines.get(scope).is_some_and(is_done) {
            self.lines.remove(scope);
        }
    }

    /// Somebody may be called.
    pub fn is_called(&self) -> bool {
        !self.to_call.is_empty()
    }

    /// The rows that have changed: of minutes, and of dearest runs. And before which minute there need be none.
    pub fn take_rows(&mut self) -> (Vec<SpendRow>, Vec<HandlerSpendRow>, Option<i64>) {
        let unwritten = std::mem::take(&mut self.unwritten);
        let spends = unwritten.into_iter().map(|(at, minute)| {
            let handler = &self.handlers[at];
            SpendRow {
                plugin: handler.plugin.clone(),
                handler: handler.name.clone(),
                minute,
                nanos: handler.account.spending.of_minute(minute),
                calls: handler.calls.get(&minute).copied().unwrap_or_default(),
            }
        });
        let spends: Vec<_> = spends.collect();
        let from = self.retain(spends.len());
        let dearer = std::mem::take(&mut self.dearer).into_iter().filter_map(|at| {
            let handler = &self.handlers[at];
            let dearest = amount_of_nanos(handler.dearest?);
            let (plugin, handler) = (handler.plugin.clone(), handler.name.clone());
            Some(HandlerSpendRow { plugin, handler, dearest })
        });
        (spends, dearer.collect(), from)
    }

    /// The minute before which no row is needed, now and then: by the earliest that the clock showed in a day, or
    /// that there was a row of when the engine started. One that is ahead takes nothing away. The store takes a
    /// bounded number away at once: it is asked more often the more rows are written, so that in the end as many go.
    fn retain(&mut self, written: usize) -> Option<i64> {
        let present = minute_of(self.now.wall);
        let (last, minutes) = &mut self.retained;
        if self.now.mono.since(*last) >= RETAINED_EVERY {
            *last = self.now.mono;
            minutes.push_back(present);
            if minutes.len() > TIMES_REMEMBERED {
                minutes.pop_front();
            }
            self.asks = self.asks.max(1);
        }
        self.written += written;
        self.asks += self.written / ROWS_PER_RETENTION;
        self.written %= ROWS_PER_RETENTION;
        let earliest = minutes.iter().min().filter(|_| self.asks > 0)?;
        self.asks -= 1;
        Some(earliest - MINUTES_KEPT)
    }

    /// The row of a budget that was set.
    pub fn row(&self, scope: &BudgetScope) -> Option<&BudgetRow> {
        self.rows.get(scope)
    }
}

impl State {
    /// Whether a budget lets the next job of a lane start. If not, the lane waits for it.
    pub(crate) fn budget_allows(&mut self, lane_id: LaneId, number: JobNumber) -> bool {
        let lane = &self.lanes[&lane_id];
        if !self.budgets.any && lane.budget.is_none() {
            return true;
        }
        match self.check_budgets(number) {
            Ok(()) => true,
            Err(refused) => {
                self.hold_for_budget(lane_id, number, refused);
                false
            }
        }
    }

    /// Whether a budget lets a suspect start, which stands in no lane. If not, its plugin is looked at again
    /// when it may.
    pub(crate) fn budget_lets_suspect(&mut self, number: JobNumber) -> bool {
        if !self.budgets.any || !self.jobs.contains_key(&number) {
            return true;
        }
        match self.check_budgets(number) {
            Ok(()) => true,
            Err(Refused { hold, until, .. }) => {
                let later = self.budgets.now.mono.plus(LOOKED_AT_EVERY);
                self.arm_budget(&hold.scope, Some(until.unwrap_or(later)));
                false
            }
        }
    }

    /// The same for those that only want to know.
    pub(crate) fn budget_would_let(&self, number: JobNumber) -> bool {
        !self.budgets.any || self.check_budgets(number).is_ok()
    }

    fn check_budgets(&self, number: JobNumber) -> Result<(), Refused> {
        let job = &self.jobs[&number];
        let lane = &self.lanes[&job.lane];
        let Some(plugin) = &lane.plugin else { return Ok(()) };
        let estimate = job.row.asked.as_ref().and_then(|asked| asked.cost_estimate);
        self.budgets.check((plugin, &lane.bare), Some(job.lane), estimate, self.budgets.now)
    }

    fn hold_for_budget(&mut self, lane_id: LaneId, number: JobNumber, refused: Refused) {
        let Refused { hold, until, .. } = refused;
        let held = self.lanes[&lane_id].budget.as_deref();
        let was_freed = self.budgets.freeing.contains_key(&lane_id);
        // What of it is used up may change from one look to the next.
        let is_same = held.is_some_and(|held| {
            held.hold.scope == hold.scope && (held.freed_at.is_none() || was_freed)
        });
        if is_same {
            self.hold_goes_on(lane_id, number);
        } else {
            self.leave_budget(lane_id);
            self.begin_of_hold(lane_id, number, hold.clone());
        }
        // Whoever was called, and found that another had been faster, has its place again. What was held before
        // its last start has none.
        let held = self.lanes[&lane_id].budget.as_deref();
        let place = held.and_then(|held| held.place);
        let line = self.budgets.lines.entry(hold.scope.clone()).or_default();
        let place = place.filter(|place| !line.lanes.contains_key(place));
        let ticket = place.unwrap_or(line.last_ticket + 1);
        line.last_ticket = line.last_ticket.max(ticket);
        line.lanes.insert(ticket, lane_id);
        line.called.remove(&lane_id);
        self.arm_budget(&hold.scope, until);
        let lane = self.lanes.get_mut(&lane_id).expect("only known lanes are held");
        let held = lane.budget.as_mut().expect("it has begun above");
        (held.place, held.ticket) = (Some(ticket), Some((ticket, self.budgets.now.mono)));
        held.hold = hold;
    }

    fn begin_of_hold(&mut self, lane_id: LaneId, number: JobNumber, hold: BudgetHold) {
        let since = self.budgets.now;
        let (scope, until) = (hold.scope.to_string(), hold.until);
        let lane = self.lanes.get_mut(&lane_id).expect("only known lanes are held");
        let key = lane.key.clone();
        let watcher = key.watcher.and_then(|watcher| self.watchers.get(&watcher));
        let watcher = watcher.map(|watcher| watcher.shown());
        let leaf = self.record(&Record::BudgetHeld(BudgetHeldRecord {
            asker: key.asker.as_ref().map(Asker::as_str),
            at: since.wall,
            budget: &scope,
            handler: &key.handler,
            held_ms: None,
            limit: hold.kind.as_str(),
            r#type: "budget_held",
            until,
            watcher: watcher.as_deref(),
        }));
        let since = since.mono;
        let (ticket, place, freed_at, freed) = (None, None, None, None);
        let held = Held { hold, since, ticket, place, leaf, freed_at, freed };
        self.lanes.get_mut(&lane_id).expect("looked up above").budget = Some(Box::new(held));
        self.note_leaf(number, leaf);
    }

    /// What the budget let go of the lane is all that there was room for: it is the same hold for the next in it.
    fn hold_goes_on(&mut self, lane_id: LaneId, number: JobNumber) {
        self.budgets.freeing.remove(&lane_id);
        let lane = self.lanes.get_mut(&lane_id).expect("only known lanes are held");
        let held = lane.budget.as_mut().expect("looked up by the caller");
        held.freed_at = None;
        let leaf = held.leaf;
        self.note_wait(number, leaf);
    }

    /// The lane goes on, or is no more. Says whether it was held.
    fn end_of_hold(&mut self, lane_id: LaneId) -> bool {
        let now = self.budgets.now;
        let Some(lane) = self.lanes.get_mut(&lane_id) else { return false };
        let Some(held) = lane.budget.as_mut().filter(|held| held.freed_at.is_none()) else {
            return false;
        };
        held.freed_at = Some(now.wall);
        lane.budget_held += held.waited(now.mono);
        let (ticket, scope) = (held.ticket.take(), held.hold.scope.clone());
        self.leave_line(&scope, ticket.map(|(ticket, _)| ticket));
        true
    }

    /// All that may start has. Tells of the lanes that budgets let go on and did not hold again at once.
    pub(crate) fn tell_of_freed(&mut self) {
        for (lane_id, number) in std::mem::take(&mut self.budgets.freeing) {
            if let Some(leaf) = self.record_freed(lane_id) {
                self.note_leaf(number, leaf);
            }
        }
    }

    fn record_freed(&mut self, lane_id: LaneId) -> Option<LeafNumber> {
        let now = self.budgets.now;
        let lane = self.lanes.get(&lane_id)?;
        let held = lane.budget.as_ref()?;
        let (since, hold, key) = (held.since, held.hold.clone(), lane.key.clone());
        let held_ms = now.mono.since(since).as_millis();
        let watcher = key.watcher.and_then(|watcher| self.watchers.get(&watcher));
        let watcher = watcher.map(|watcher| watcher.shown());
        let leaf = self.record(&Record::BudgetHeld(BudgetHeldRecord {
            asker: key.asker.as_ref().map(Asker::as_str),
            at: now.wall,
            budget: &hold.scope.to_string(),
            handler: &key.handler,
            held_ms: Some(u64::try_from(held_ms).unwrap_or(u64::MAX)),
            limit: hold.kind.as_str(),
            r#type: "budget_freed",
            until: None,
            watcher: watcher.as_deref(),
        }));
        let held = self.lanes.get_mut(&lane_id).and_then(|lane| lane.budget.as_mut());
        held.into_iter().for_each(|held| held.freed = Some(leaf));
        Some(leaf)
    }

    /// Takes a lane that is gone, or moves to another plugin, out of the line that it stands in.
    pub(crate) fn leave_budget(&mut self, lane_id: LaneId) {
        let freed = self.budgets.freeing.remove(&lane_id);
        if freed.is_some() || self.end_of_hold(lane_id) {
            let leaf = self.record_freed(lane_id);
            freed.zip(leaf).into_iter().for_each(|(number, leaf)| self.note_leaf(number, leaf));
        }
    }

    fn leave_line(&mut self, scope: &BudgetScope, ticket: Option<u64>) {
        if let (Some(line), Some(ticket)) = (self.budgets.lines.get_mut(scope), ticket) {
            line.lanes.remove(&ticket);
        }
    }

    /// Sees to it that those who wait for a budget are called at a moment.
    fn arm_budget(&mut self, scope: &BudgetScope, at: Option<Mono>) {
        let Some(at) = at else { return };
        let line = self.budgets.lines.entry(scope.clone()).or_default();
        if line.timer.is_some_and(|timer| timer <= at) {
            return;
        }
        if let Some(before) = line.timer.replace(at) {
            self.timers.remove(&(before, Timer::Budget(scope.clone())));
        }
        self.timers.insert((at, Timer::Budget(scope.clone())));
    }

    /// The moment has come.
    pub(crate) fn budget_is_due(&mut self, scope: BudgetScope) {
        if let Some(line) = self.budgets.lines.get_mut(&scope) {
            line.timer = None;
            self.budgets.to_call.insert(scope);
        }
    }

    /// Everything has been pumped. Calls those in the line of each budget that would let them start.
    pub(crate) fn call_budgets(&mut self) {
        for scope in std::mem::take(&mut self.budgets.to_call) {
            self.pump_suspects_of(&scope);
            self.call_line(&scope);
            self.budgets.forget_line(&scope);
        }
    }

    /// Lets those in line go on that have room, so many at once as there are calls left, and keeps a call for
    /// each: so they share them. Whoever was called before and has not started cannot, and nothing is kept for
    /// it any more. The first in line is looked at each time, the others in turn.
    fn call_line(&mut self, scope: &BudgetScope) {
        let Some(line) = self.budgets.lines.get_mut(scope) else { return };
        line.called.clear();
        let mut room = self.budgets.calls_left(scope).min(LOOKED_AT_AT_ONCE);
        let mut is_kept_for = None;
        let mut next = self.budgets.next_in_line(scope, 0);
        for looked_at in 1..=LOOKED_AT_AT_ONCE {
            let Some((ticket, lane_id)) = next.filter(|_| room > 0) else { return };
            match self.next_of(lane_id).map(|number| self.check_budgets(number)) {
                Some(Err(refused)) if self.is_held_so(lane_id, &refused.hold) => {
                    let is_possible = refused.hold.cause != HoldCause::TooDear;
                    let first = is_possible.then_some(ticket);
                    is_kept_for = is_kept_for.or(first);
                    let keeps_others = self.keeps_others(&refused, is_kept_for == Some(ticket));
                    self.still_held(lane_id, refused);
                    if keeps_others {
                        return;
                    }
                }
                _ => {
                    self.let_go_on(scope, ticket, lane_id);
                    room -= 1;
                }
            }
            next = self.budgets.next_looked_at(scope, ticket, looked_at == 1);
        }
    }

    /// Whether those behind one that is held have to wait as well: there is no call left for anybody, or what it
    /// waits for is free so soon that it is kept for the first.
    fn keeps_others(&self, refused: &Refused, is_first: bool) -> bool {
        let now = self.budgets.now;
        match refused.hold.kind {
            BudgetKind::Calls => true,
            BudgetKind::Spend(_) => {
                let frees = refused.frees.filter(|_| is_first);
                frees.is_some_and(|frees| frees.since(now.wall) <= KEPT_FOR_FIRST)
            }
        }
    }

    fn let_go_on(&mut self, scope: &BudgetScope, ticket: u64, lane_id: LaneId) {
        self.leave_line(scope, Some(ticket));
        let lane = self.lanes.get_mut(&lane_id).expect("a lane that is gone waits nowhere");
        let held = lane.budget.as_mut().expect("who stands in line is held");
        lane.budget_held += held.waited(self.budgets.now.mono);
        held.ticket = None;
        let line = self.budgets.lines.get_mut(scope).expect("it stood in it until now");
        line.called.insert(lane_id);
        self.schedule(lane_id);
        self.budgets.to_call.insert(scope.clone());
    }

    /// Whether a lane stands in line for that budget.
    fn is_held_so(&self, lane_id: LaneId, hold: &BudgetHold) -> bool {
        let held = self.lanes[&lane_id].budget.as_ref();
        held.is_some_and(|held| held.hold.scope == hold.scope)
    }

    fn still_held(&mut self, lane_id: LaneId, Refused { hold, until, .. }: Refused) {
        self.arm_budget(&hold.scope, until);
        let lane = self.lanes.get_mut(&lane_id).expect("a lane that is gone waits nowhere");
        lane.budget.as_mut().expect("who stands in line is held").hold = hold;
    }

    /// The job that a lane would start in its turn, if it may start any. Another one than that would be held
    /// in this one's place, and the lane called again for ever.
    fn next_of(&self, lane_id: LaneId) -> Option<JobNumber> {
        let lane = self.lanes.get(&lane_id).filter(|lane| self.may_run(lane))?;
        let (number, _) = self.pick(lane, lane.plugin.as_ref()?, &mut None)?;
        Some(number)
    }

    /// Suspects stand in no line.
    fn pump_suspects_of(&mut self, scope: &BudgetScope) {
        let covered = |plugin: &PluginName| match scope {
            BudgetScope::All => true,
            BudgetScope::Plugin(of) | BudgetScope::Handler(of, _) => of == plugin,
        };
        let suspected = self
            .plugins
            .iter()
            .filter(|(name, plugin)| !plugin.suspects.is_empty() && covered(name));
        self.to_pump.extend(suspected.map(|(name, _)| name.clone()));
    }

    /// An attempt starts. Gives the account that its call is counted in.
    pub(crate) fn budget_started(
        &mut self,
        number: JobNumber,
        plugin: &PluginName,
        handler: &HandlerName,
    ) -> usize {
        let row = &self.jobs[&number].row;
        let estimate = row.asked.as_ref().and_then(|asked| asked.cost_estimate);
        let account = self.budgets.started(number, plugin, handler, estimate);
        self.warn_of(account);
        account
    }

    /// An attempt is about to start in a lane that a budget held until now, or did before it: the job knows of it, if
    /// it waited then.
    pub(crate) fn note_hold(&mut self, lane_id: LaneId, number: JobNumber) {
        let Some(held) = &self.lanes[&lane_id].budget else { return };
        if let Some(line) = self.budgets.lines.get_mut(&held.hold.scope) {
            line.called.remove(&lane_id);
        }
        let leaf = held.leaf;
        if self.end_of_hold(lane_id) {
            self.budgets.freeing.insert(lane_id, number);
        }
        let Some(held) = &self.lanes[&lane_id].budget else { return };
        let (freed_at, freed) = (held.freed_at, held.freed);
        // Since when it waits: it was made, or its last attempt ended, which was not before that began.
        let row = &self.jobs[&number].row;
        let since = row.started_at.unwrap_or(row.created_at);
        if freed_at.is_none_or(|freed_at| since <= freed_at) {
            self.note_wait(number, leaf);
            freed.into_iter().for_each(|freed| self.note_wait(number, freed));
        }
    }

    /// The job waits, or waited, as a record says; once for each attempt.
    fn note_wait(&mut self, number: JobNumber, leaf: LeafNumber) {
        let Some(job) = self.jobs.get(&number) else { return };
        let mut since = job.row.leaves.iter().skip(job.leaves_before);
        if since.all(|known| *known != leaf) {
            self.note_leaf(number, leaf);
        }
    }

    /// An attempt has begun: what is noted from here on is of the next one.
    pub(crate) fn note_where_it_started(&mut self, number: JobNumber) {
        let job = self.jobs.get_mut(&number).expect("only known jobs start");
        job.leaves_before = job.row.leaves.len();
    }

    /// An attempt that started leaves, now or later.
    pub(crate) fn budget_left(&mut self, account: usize, at: Mono) {
        self.budgets.left(account, at);
        if self.budgets.any && !self.budgets.lines.is_empty() {
            // When those that wait for calls may go on can only be told now.
            let now = self.budgets.now.mono;
            for scope in self.budgets.scopes_of(account) {
                if self.budgets.lines.contains_key(&scope) {
                    self.arm_budget(&scope, Some(now));
                }
            }
        }
    }

    /// What the attempts of a job have cost is another amount.
    pub(crate) fn charge(&mut self, number: JobNumber, before: Option<f64>, after: Option<f64>) {
        let nanos = |cost: Option<f64>| cost.and_then(nanos_of_amount).unwrap_or_default();
        let more = nanos(after).saturating_sub(nanos(before));
        let Some(handler) = self.account_of(number).filter(|_| more != 0) else { return };
        self.budgets.spent(number, handler, more);
        self.warn_of(handler);
        if more < 0 {
            self.budgets.call_for(handler);
        }
    }

    /// The attempt under way of a job is over, whatever became of it.
    pub(crate) fn budget_attempt_over(&mut self, number: JobNumber, outcome: Option<&Outcome>) {
        let Some(handler) = self.account_of(number) else { return };
        let job = &self.jobs[&number];
        let nanos = |cost: Option<f64>| cost.and_then(nanos_of_amount);
        let (before, after) = (nanos(job.cost_before), nanos(job.row.cost));
        self.budgets.over(number);
        let cost = after.unwrap_or_default().saturating_sub(before.unwrap_or_default());
        let of_handler = &mut self.budgets.handlers[handler];
        let is_dearer = match (of_handler.dearest, outcome) {
            (Some(dearest), _) => dearest < cost,
            // What it has cost until somebody stopped it, or it was lost, says little of a whole run.
            (None, None | Some(Outcome::Lost { .. })) => false,
            (None, Some(Outcome::Succeeded { .. })) => true,
            // Nor does one that failed for nothing.
            (None, Some(_)) => cost != 0,
        };
        if is_dearer {
            of_handler.dearest = Some(cost.max(0));
            self.budgets.dearer.insert(handler);
        }
        self.budgets.call_for(handler);
    }

    /// The account of the handler that runs a job.
    fn account_of(&mut self, number: JobNumber) -> Option<usize> {
        let job = self.jobs.get(&number)?;
        let (plugin, handler) = (job.row.plugin.as_ref()?, &self.lanes[&job.lane].bare);
        Some(self.budgets.handler(plugin, handler))
    }

    /// Tells of budgets that are nearly used up.
    fn warn_of(&mut self, handler: usize) {
        if !self.budgets.any {
            return;
        }
        for scope in self.budgets.scopes_of(handler) {
            self.warn_of_scope(scope);
        }
    }

    /// Tells once in each life of all budgets that are nearly used up: somebody may have lowered them meanwhile.
    pub(crate) fn warn_of_all(&mut self) {
        let scopes: BTreeSet<_> =
            self.budgets.rows.keys().chain(self.policy.budgets.keys()).cloned().collect();
        scopes.into_iter().for_each(|scope| self.warn_of_scope(scope));
    }

    fn warn_of_scope(&mut self, scope: BudgetScope) {
        let now = self.budgets.now;
        for (kind, used, limit) in self.budgets.account_mut(&scope).warnings(now) {
            let text = |amount: i128| match kind {
                BudgetKind::Calls => amount.to_string(),
                BudgetKind::Spend(_) => amount_text(amount),
            };
            let (budget, used, limit) = (scope.to_string(), text(used), text(limit));
            self.record(&Record::BudgetWarning(BudgetWarning {
                at: now.wall,
                budget: &budget,
                limit: kind.as_str(),
                of: &limit,
                r#type: "budget_warning",
                used: &used,
            }));
            let scope = scope.clone();
            self.budgets.warnings.push(Effect::BudgetWarning { scope, kind, used, of: limit });
        }
    }

    /// Sets what a budget says, or leaves it to the configuration.
    pub(crate) fn set_budget(
        &mut self,
        scope: BudgetScope,
        change: BudgetChange,
        by: &str,
    ) -> Answer {
        Answer::Budget(self.try_set_budget(scope, change, by).map(Box::new))
    }

    fn try_set_budget(
        &mut self,
        scope: BudgetScope,
        change: BudgetChange,
        by: &str,
    ) -> Result<BudgetRow, Refusal> {
        let now = self.budgets.now;
        for amount in [change.per_day, change.per_week, change.per_month] {
            check_amount(amount.flatten())?;
        }
        let before = self.budgets.rows.get(&scope).cloned();
        let mut row = before.unwrap_or_else(|| BudgetRow {
            scope: scope.clone(),
            calls_per_minute: None,
            per_day: None,
            per_week: None,
            per_month: None,
            set_by: by.to_owned(),
            changed_at: now.wall,
        });
        row.calls_per_minute = change.calls_per_minute.unwrap_or(row.calls_per_minute);
        row.per_day = change.per_day.unwrap_or(row.per_day);
        row.per_week = change.per_week.unwrap_or(row.per_week);
        row.per_month = change.per_month.unwrap_or(row.per_month);
        (row.set_by, row.changed_at) = (by.to_owned(), now.wall);
        let text = |amount: Option<f64>| {
            amount.and_then(nanos_of_amount).map(|nanos| amount_text(nanos.into()))
        };
        self.record(&Record::BudgetSet(BudgetSetRecord {
            at: now.wall,
            budget: &scope.to_string(),
            by,
            calls_per_minute: row.calls_per_minute,
            per_day: text(row.per_day).as_deref(),
            per_month: text(row.per_month).as_deref(),
            per_week: text(row.per_week).as_deref(),
            r#type: "budget_set",
        }));
        let configured = self.policy.budgets.get(&scope).copied().unwrap_or_default();
        self.budgets.rows.insert(scope.clone(), row.clone());
        self.budgets.set_limits(&scope, configured);
        self.unwritten.budgets.insert(scope.clone());
        self.warn_of_scope(scope.clone());
        self.budgets.to_call.insert(scope);
        Ok(row)
    }

    /// Every budget, and what has been used of it: those of all first, then by plugin and handler.
    #[must_use]
    pub fn budgets(&self, now: Now) -> Vec<BudgetView> {
        let scopes: BTreeSet<_> =
            self.budgets.rows.keys().chain(self.policy.budgets.keys()).cloned().collect();
        scopes.into_iter().filter_map(|scope| self.budget(&scope, now)).collect()
    }

    /// What has been used of a scope, whether or not it has a budget; `None` of one never heard of.
    #[must_use]
    pub fn budget(&self, scope: &BudgetScope, now: Now) -> Option<BudgetView> {
        let account = self.budgets.account(scope)?;
        let line = self.budgets.lines.get(scope);
        let first = line.and_then(|line| line.lanes.values().next());
        let first = first.and_then(|lane| self.lanes.get(lane)?.budget.as_deref());
        Some(BudgetView {
            scope: scope.clone(),
            used: account.used(now),
            row: self.budgets.row(scope).cloned(),
            held_lanes: line.map_or(0, |line| line.lanes.len() as u64),
            held_by: first.map(|held| held.hold.clone()),
        })
    }

    /// The figures of a handler, and what the budgets that cover it leave.
    #[must_use]
    pub fn pulse(&self, plugin: &PluginName, handler: &HandlerName, now: Now) -> Pulse {
        let own = BudgetScope::Handler(plugin.clone(), handler.clone());
        let scopes = [&own, &BudgetScope::Plugin(plugin.clone()), &BudgetScope::All];
        let accounts = scopes.map(|scope| self.budgets.account(scope));
        let used = accounts.map(|account| account.map(|account| account.used(now)));
        let least = |left: fn(&Used) -> Option<f64>| {
            used.iter().flatten().filter_map(left).reduce(f64::min)
        };
        Pulse {
            calls_left: used.iter().flatten().filter_map(Used::calls_left).min(),
            spend_left: least(Used::left),
            held_by: self
                .budgets
                .check((plugin, handler), None, None, now)
                .err()
                .map(|refused| refused.hold),
            used: used.into_iter().next().flatten().unwrap_or_default(),
        }
    }
}

fn check_amount(amount: Option<f64>) -> Result<(), Refusal> {
    match amount {
        Some(amount) if nanos_of_amount(amount).is_none() => {
            let reason = format!("{amount}: a budget is an amount of 0 or more");
            Err(Refusal::new(RefusalKind::Invalid, reason))
        }
        _ => Ok(()),
    }
}

fn amount(nanos: i128) -> f64 {
    nanos as f64 / 1e9
}

/// An amount in billionths, exactly and as short as possible: `12.5`.
pub(crate) fn amount_text(nanos: i128) -> String {
    let (sign, nanos) = (if nanos < 0 { "-" } else { "" }, nanos.unsigned_abs());
    let text = format!("{sign}{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn nanos_u64(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_written_exactly_and_short() {
        for (nanos, text) in [
            (0, "0"),
            (1, "0.000000001"),
            (12_500_000_000, "12.5"),
            (-250_000_000, "-0.25"),
            (100_000_000_000, "100"),
            (i128::from(i64::MAX), "9223372036.854775807"),
        ] {
            assert_eq!(amount_text(nanos), text);
        }
    }

    #[test]
    fn what_is_left_is_what_the_tightest_budget_leaves() {
        let spent_max = [Some(2.0), None, Some(10.0)];
        let used = Used { spent: [0.5, 3.0, 9.0], spent_max, reserved: 0.25, ..Used::default() };
        assert_eq!(used.left(), Some(0.75));
        assert_eq!(Used { all_reserved: true, ..used.clone() }.left(), Some(0.0));
        assert_eq!(Used { spent: [2.5, 3.0, 9.0], ..used }.left(), Some(0.0));
        assert_eq!(Used::default().left(), None);
        let used = Used { spent: [0.1; 3], spent_max: [Some(0.3); 3], ..Used::default() };
        assert_eq!(used.left(), Some(0.2), "no remainder of a sum of fractions");
        let used = Used { calls: 7, calls_max: Some(5), ..Used::default() };
        assert_eq!(used.calls_left(), Some(0));
    }
}
