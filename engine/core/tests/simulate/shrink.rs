//! Makes a failing plan short: whatever can be left out while it still fails is left out.

use crate::plan::Plan;

/// The shortest plan found that still fails: no chunk and no single step of it can be left out, and no
/// death and no stall of a step that is left. `fails` may be asked some thousand times.
pub fn shrink(mut plan: Plan, fails: impl Fn(&Plan) -> bool) -> Plan {
    loop {
        let before = plan.steps.len();
        let mut chunk = plan.steps.len().next_power_of_two() / 2;
        while chunk > 0 {
            drop_chunks(&mut plan, chunk, &fails);
            chunk /= 2;
        }
        if plan.steps.len() == before {
            break;
        }
    }
    soften(&mut plan, &fails);
    plan
}

/// Leaves out every so many steps that nobody misses, the last ones first.
fn drop_chunks(plan: &mut Plan, chunk: usize, fails: &impl Fn(&Plan) -> bool) {
    let mut end = plan.steps.len();
    while end > 0 {
        let start = end.saturating_sub(chunk);
        let mut shorter = plan.clone();
        shorter.steps.drain(start..end);
        if fails(&shorter) {
            *plan = shorter;
        }
        end = start;
    }
}

/// Leaves out what steps need not have.
fn soften(plan: &mut Plan, fails: &impl Fn(&Plan) -> bool) {
    for place in 0..plan.steps.len() {
        let mut softer = plan.clone();
        softer.steps[place].stall_ms = 0;
        if fails(&softer) {
            *plan = softer;
        }
        while let Some(last) = plan.steps[place].deaths.iter().rposition(Option::is_some) {
            let mut softer = plan.clone();
            softer.steps[place].deaths.truncate(last);
            if !fails(&softer) {
                break;
            }
            *plan = softer;
        }
    }
}
