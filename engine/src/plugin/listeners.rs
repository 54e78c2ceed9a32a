//! Which processes belong to a plugin, and where they listen: what the kernel says about them.
//!
//! A plugin answers whoever can reach its port, so a port that is open beyond this machine is open
//! to everyone. Only looking at the sockets themselves tells, since what a plugin was asked to do and
//! what it does are two things.
//!
//! Linux only, from `/proc`. Elsewhere every answer is empty.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The addresses beyond loopback on which the given processes accept TCP connections, in order.
///
/// `0.0.0.0` and `::` are beyond loopback; an IPv4 loopback address in IPv6 form is not. A process
/// that has ended, or whose sockets we may not see, counts as listening nowhere. So do sockets in
/// another network namespace than ours.
///
/// # Errors
/// When the kernel does not tell what it listens on at all.
pub fn listening_beyond_loopback(pids: &[u32]) -> io::Result<Vec<SocketAddr>> {
    if cfg!(not(target_os = "linux")) {
        return Ok(Vec::new());
    }
    let mut open = listening_sockets()?;
    open.retain(|_, address| !address.ip().to_canonical().is_loopback());
    if open.is_empty() {
        return Ok(Vec::new());
    }
    let found: BTreeSet<SocketAddr> = pids
        .iter()
        .flat_map(|&pid| socket_inodes(pid))
        .filter_map(|inode| open.get(&inode).copied())
        .collect();
    Ok(found.into_iter().collect())
}

/// Whether who dials this port of 127.0.0.1 reaches one of these processes, and them alone.
///
/// Of several sockets the most particular one answers: one of this address before one of all addresses,
/// IPv4 before IPv6. When we may not see what sockets one of the processes has, it counts as theirs.
///
/// # Errors
/// When the kernel does not tell what it listens on at all.
pub(super) fn is_answered_by(port: u16, pids: &[u32]) -> io::Result<bool> {
    if cfg!(not(target_os = "linux")) {
        return Ok(true);
    }
    let particular = |ip: IpAddr| match (ip.to_canonical(), ip) {
        (IpAddr::V4(Ipv4Addr::LOCALHOST), _) => Some(0),
        (IpAddr::V4(Ipv4Addr::UNSPECIFIED), _) => Some(1),
        (_, IpAddr::V6(Ipv6Addr::UNSPECIFIED)) => Some(2),
        _ => None,
    };
    let sockets = listening_sockets()?.into_iter();
    let sockets = sockets.filter(|(_, address)| address.port() == port);
    let sockets: Vec<_> =
        sockets.filter_map(|(inode, address)| Some((particular(address.ip())?, inode))).collect();
    let Some(first) = sockets.iter().map(|(rank, _)| *rank).min() else { return Ok(false) };
    let theirs: BTreeSet<u64> = pids.iter().flat_map(|&pid| socket_inodes(pid)).collect();
    let mut answering = sockets.iter().filter(|(rank, _)| *rank == first);
    Ok(answering.all(|(_, inode)| theirs.contains(inode)) || pids.iter().any(|&pid| is_closed(pid)))
}

/// Whether we may not see what a process has open.
fn is_closed(pid: u32) -> bool {
    let seen = fs::read_dir(format!("/proc/{pid}/fd"));
    seen.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

/// All processes that come from `pid`, in order, without itself.
///
/// One look at a table that others change meanwhile: a process that is just starting may be missing.
#[must_use]
pub fn descendants(pid: u32) -> Vec<u32> {
    let processes = processes();
    let mut found = BTreeSet::new();
    let mut parents = vec![pid];
    while let Some(parent) = parents.pop() {
        let children = processes.iter().filter(|process| process.parent == parent);
        parents.extend(children.map(|process| process.pid).filter(|&pid| found.insert(pid)));
    }
    found.into_iter().collect()
}

/// The processes whose parent is `pid`, in order, ended ones that nobody has waited for included.
#[must_use]
pub fn children(pid: u32) -> Vec<u32> {
    let mut found: Vec<u32> = children_of(pid).map(|process| process.pid).collect();
    found.sort_unstable();
    found
}

/// The living ones of all that come from `pid`.
#[must_use]
pub(super) fn living_descendants(pid: u32) -> Vec<u32> {
    let found = descendants(pid).into_iter();
    found.filter(|&pid| has_ended(pid) == Some(false)).collect()
}

/// Whether a process has ended and only waits for its parent to notice; `None` when it is not there at all.
#[must_use]
pub(super) fn has_ended(pid: u32) -> Option<bool> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    parse_stat(pid, &stat).map(|process| process.has_ended)
}

/// The living processes whose environment has an entry that begins so: `NAME=value`, or only the first
/// part of the value. As far as we may look.
#[must_use]
pub(super) fn with_environment(beginning: &str) -> Vec<u32> {
    let has_entry = |pid: u32| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|&byte| byte == 0).any(|found| found.starts_with(beginning.as_bytes()))
    };
    let pids = processes().into_iter().map(|process| process.pid);
    pids.filter(|&pid| has_entry(pid)).collect()
}

/// The child of `pid` that is there longest.
///
/// Of a launcher this is the plugin, as long as it lives: whatever else the launcher has come to be
/// the parent of was started by the plugin, and so after it.
#[must_use]
pub fn first_child(pid: u32) -> Option<u32> {
    children_of(pid)
        .min_by_key(|process| (process.started_ticks, process.pid))
        .map(|process| process.pid)
}

/// The bytes of memory that these processes use, together.
///
/// What they share counts once where the kernel tells (`Pss`), which it does when we may look into them;
/// else a process counts with all that it has resident. Asking for `Pss` makes the kernel walk all pages
/// of a process, so that it is asked only when the sum of the simple figures is over `enough`.
#[must_use]
pub(super) fn memory_bytes(pids: &[u32], enough: u64) -> u64 {
    let resident: Vec<_> = pids.iter().map(|&pid| (pid, resident_bytes(pid))).collect();
    let sum: u64 = resident.iter().map(|(_, bytes)| bytes).sum();
    if sum <= enough {
        return sum;
    }
    resident.into_iter().map(|(pid, resident)| shared_bytes(pid).unwrap_or(resident)).sum()
}

/// See proc_pid_statm(5): the second field, in pages.
fn resident_bytes(pid: u32) -> u64 {
    let pages = || {
        let statm = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
        statm.split_ascii_whitespace().nth(1)?.parse::<u64>().ok()
    };
    pages().unwrap_or(0) * rustix::param::page_size() as u64
}

/// See proc_pid_smaps(5): `Pss` of the summary, and what is swapped out.
fn shared_bytes(pid: u32) -> Option<u64> {
    let summary = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let kib = |name: &str| {
        let line = summary.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_ascii_whitespace().next()?.parse::<u64>().ok()
    };
    Some((kib("Pss:")? + kib("SwapPss:").unwrap_or(0)) * 1024)
}

fn children_of(pid: u32) -> impl Iterator<Item = Process> {
    processes().into_iter().filter(move |process| process.parent == pid)
}

struct Process {
    pid: u32,
    parent: u32,
    /// Only its number is left, until its parent has waited for it.
    has_ended: bool,
    /// Since the machine was started.
    started_ticks: u64,
}

fn processes() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid| parse_stat(pid, &fs::read(format!("/proc/{pid}/stat")).ok()?))
        .collect()
}

/// See proc_pid_stat(5). The second field is a name in brackets, which may hold anything, brackets
/// and blanks too.
fn parse_stat(pid: u32, stat: &[u8]) -> Option<Process> {
    let name_end = stat.iter().rposition(|&byte| byte == b')')?;
    let rest = str::from_utf8(&stat[name_end + 1..]).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let has_ended = matches!(fields.next()?, "Z" | "X");
    let parent = fields.next()?.parse().ok()?;
    let started_ticks = fields.nth(17)?.parse().ok()?;
    Some(Process { pid, parent, has_ended, started_ticks })
}

fn socket_inodes(pid: u32) -> Vec<u64> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    entries
        .filter_map(|entry| {
            let target = fs::read_link(entry.ok()?.path()).ok()?;
            target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
        })
        .collect()
}

/// By inode, the sockets of this machine that accept connections.
fn listening_sockets() -> io::Result<HashMap<u64, SocketAddr>> {
    let mut table = fs::read_to_string("/proc/net/tcp")?;
    match fs::read_to_string("/proc/net/tcp6") {
        Ok(more) => table += &more,
        // A kernel without IPv6.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(table.lines().filter_map(parse_listening).collect())
}

/// See proc_net(5). The heading is no socket, and neither is a line in any other state than LISTEN.
fn parse_listening(line: &str) -> Option<(u64, SocketAddr)> {
    const LISTEN: &str = "0A";
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (ip, port) = fields.next()?.split_once(':')?;
    if fields.nth(1)? != LISTEN {
        return None;
    }
    let inode = fields.nth(5)?.parse().ok()?;
    Some((inode, SocketAddr::new(parse_ip(ip)?, u16::from_str_radix(port, 16).ok()?)))
}

/// The kernel prints the words of an address as numbers of this machine's byte order.
fn parse_ip(hex: &str) -> Option<IpAddr> {
    let word =
        |i: usize| Some(u32::from_str_radix(hex.get(8 * i..8 * i + 8)?, 16).ok()?.to_ne_bytes());
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            let bytes: [u8; 16] = words.as_flattened().try_into().ok()?;
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::env;
    use std::io::{BufRead as _, BufReader, Read as _};
    use std::net::TcpListener;
    use std::process::{Child, Command, Stdio};

    use super::*;

    const ADDRESSES: &str = "AXWATCH_TEST_LISTEN";

    /// Listens, says where, and stays until its input ends.
    #[test]
    #[ignore = "the process that the other tests look at"]
    fn listener() {
        let Ok(addresses) = env::var(ADDRESSES) else { return };
        let bound: Vec<_> =
            addresses.split_whitespace().filter_map(|ip| TcpListener::bind((ip, 0)).ok()).collect();
        for listener in &bound {
            println!("\nlistening {}", listener.local_addr().unwrap());
        }
        println!("\nready");
        io::stdin().read_to_end(&mut Vec::new()).unwrap();
    }

    /// A process that listens on those of the addresses that this machine has, and where.
    fn listen(addresses: &str) -> (Child, Vec<SocketAddr>) {
        let (_, module) = module_path!().split_once("::").unwrap();
        let mut process = Command::new(env::current_exe().unwrap())
            .args([&format!("{module}::listener"), "--exact", "--ignored", "--nocapture"])
            .env(ADDRESSES, addresses)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.as_mut().unwrap()).lines().map(Result::unwrap);
        let said = lines.take_while(|line| line != "ready");
        let bound = said.filter_map(|line| line.strip_prefix("listening ")?.parse().ok()).collect();
        (process, bound)
    }

    #[test]
    fn only_what_listens_beyond_loopback_is_found() {
        let cases = [
            // (addresses, whether they are beyond loopback)
            ("127.0.0.1 127.0.0.9 ::1 ::ffff:127.0.0.1", false),
            ("0.0.0.0", true),
            (":: ::ffff:0.0.0.0", true),
        ];
        for (addresses, beyond) in cases {
            let (mut process, mut bound) = listen(addresses);
            bound.sort_unstable();
            let found = listening_beyond_loopback(&[process.id()]).unwrap();
            assert_eq!(found, if beyond { bound } else { Vec::new() }, "{addresses}");
            process.wait().unwrap();
        }
    }

    #[test]
    fn another_process_is_not_looked_at() {
        let (mut open, _) = listen("0.0.0.0");
        let (mut shut, _) = listen("127.0.0.1");
        assert!(listening_beyond_loopback(&[shut.id()]).unwrap().is_empty());
        assert_eq!(listening_beyond_loopback(&[shut.id(), open.id()]).unwrap().len(), 1);
        let gone = open.id();
        open.wait().unwrap();
        shut.wait().unwrap();
        assert!(listening_beyond_loopback(&[gone]).unwrap().is_empty());
    }

    #[test]
    fn who_answers_on_a_port_is_known() {
        for address in ["127.0.0.1", "0.0.0.0", "::ffff:127.0.0.1", "::"] {
            let (mut process, bound) = listen(address);
            let (port, theirs) = (bound[0].port(), process.id());
            assert!(is_answered_by(port, &[u32::MAX, theirs]).unwrap(), "{address}");
            assert!(!is_answered_by(port, &[std::process::id()]).unwrap(), "{address}");
            process.wait().unwrap();
            assert!(!is_answered_by(port, &[theirs]).unwrap(), "{address}");
        }
        // Who has the address itself answers, and not who has all of them.
        let (mut process, bound) = listen("::1");
        let ours = TcpListener::bind(("127.0.0.1", bound[0].port())).unwrap();
        assert!(!is_answered_by(bound[0].port(), &[process.id()]).unwrap());
        assert!(is_answered_by(bound[0].port(), &[std::process::id()]).unwrap());
        drop(ours);
        process.wait().unwrap();
    }

    #[test]
    fn a_line_of_the_table_is_read_as_the_kernel_means_it() {
        let cases = [
            (
                "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode",
                None,
            ),
            (
                "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 77 1 0 100",
                Some((77, "127.0.0.1:8080")),
            ),
            (
                "   1: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 78 1 0 100",
                None,
            ),
            (
                "   2: 0000000000000000FFFF00000100007F:0050 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 79 1",
                Some((79, "[::ffff:127.0.0.1]:80")),
            ),
            (
                "   3: 000080FE00000000FF005450B6FB0AFE:0051 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 80 1",
                Some((80, "[fe80::5054:ff:fe0a:fbb6]:81")),
            ),
            ("", None),
        ];
        if cfg!(target_endian = "big") {
            return;
        }
        for (line, expected) in cases {
            let expected = expected.map(|(inode, address)| (inode, address.parse().unwrap()));
            assert_eq!(parse_listening(line), expected, "{line}");
        }
    }

    #[test]
    fn memory_counts_what_is_shared_once() {
        let own = std::process::id();
        let resident = resident_bytes(own);
        assert!(resident > 0 && memory_bytes(&[own], u64::MAX) > 0);
        let shared = shared_bytes(own).unwrap();
        // Half as much again: the tests beside this one go on.
        assert!(shared > 0 && shared <= resident * 3 / 2, "{shared} of {resident}");
        assert_eq!(memory_bytes(&[u32::MAX], 0), 0);
    }

    #[test]
    fn a_name_may_hold_anything() {
        let stat = b"12 (a) b (\xff) S 7 12 12 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 0 0";
        let process = parse_stat(12, stat).unwrap();
        assert_eq!((process.pid, process.parent, process.started_ticks), (12, 7, 4711));
        assert!(parse_stat(12, b"12 (sh").is_none());
    }

    #[test]
    fn descendants_are_found_over_generations() {
        let script = "sh -c 'sleep 60 & echo $!; wait' & echo $!; wait";
        let mut root =
            Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(root.stdout.as_mut().unwrap()).lines();
        let mut said: Vec<u32> = lines.take(2).map(|line| line.unwrap().parse().unwrap()).collect();
        said.sort_unstable();

        assert_eq!(descendants(root.id()), said);
        let direct = children(root.id());
        assert_eq!(direct.len(), 1);
        assert_eq!(first_child(root.id()), Some(direct[0]));
        assert!(descendants(std::process::id()).contains(&said[1]));
        assert!(descendants(u32::MAX).is_empty());

        for &pid in &said {
            let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        root.wait().unwrap();
        assert!(children(root.id()).is_empty());
    }
}
