"""The worker: runs the code of handlers, one job at a time, for the plugin that started it.

In come frames on a socket, out go frames: two lengths of four bytes, a JSON head, and bytes that are
the payload or the result. What the code prints goes to the pipes that are standard output and standard
error, and is not seen here. Nothing survives this process, which is killed whenever a job left something
behind that could be felt by the next one.

Only the standard library, from Python 3.8. Not here: which code is in force, time limits, retries.
"""

import _signal
import _thread
import ast
import builtins
import gc
import io
import json
import linecache
import logging
import mmap
import os
import re
import resource
import signal
import struct
import sys
import threading
import time
import traceback
import types
import warnings

OURS = "<axwatch>"
LENGTHS = struct.Struct(">II")
LOG_LINES_MAX = 5_000
LOG_BYTES_MAX = 65_536
TRACEBACK_CHARS_MAX = 65_536
RESULT_BYTES_MAX = 512 * 1024
DECORATORS_MAX = 100
EVERY_SECS_MAX = 2_147_483_647
NOT_NOW_SECS_MAX = 86_400
# What others than Python read of JSON.
LEVELS_MAX = 100
CLAIM_BYTES_MAX = 7 * 1024 * 1024
QUERY_LIMIT_MAX = 10_000
# Loggers that code may leave behind.
LOGGERS_MAX = 1_000
# Files that may stay open after a job, for modules that keep some.
FILES_LEFT_MAX = 64
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36

# What a handler may replace is taken before it can: then this code works all the same, and tells that it was.
globals().update((name, value) for name, value in vars(builtins).items() if not name.startswith("__"))
_read, _write, _now = os.read, os.write, time.perf_counter_ns
# Those of `signal` make an enum of each answer, which takes ten times as long.
_getsignal, _pthread_sigmask = _signal.getsignal, _signal.pthread_sigmask
_long_number = re.compile("[0-9]{20}").search
_INTACT = dict(vars(builtins))
_USED = [
    (vars(module), name, getattr(module, name))
    for module, names in (
        (ast, "parse literal_eval get_docstring"),
        (json, "dumps loads"),
        (linecache, "cache clearcache"),
        (logging, "root disable getLogger Logger NullHandler LogRecord Handler Formatter Manager"),
        (logging, "critical debug error exception info log warn warning"),
        (logging.Logger, "_log callHandlers critical debug error exception handle info isEnabledFor log makeRecord warning"),
        (os, "chdir close dup dup2 environ fstat getcwd getpgrp getpriority open pread read umask waitpid write _exit"),
        (resource, "getrlimit"),
        (signal, "setitimer"),
        (sys, "getprofile gettrace modules setrecursionlimit _current_frames"),
        (traceback, "TracebackException"),
        (types, "CoroutineType ModuleType"),
        (warnings, "catch_warnings simplefilter"),
    )
    for name in names.split()
]


class Gone(BaseException):
    """The plugin is not there any more, or this is a process that a handler made."""


class Channel:
    """Frames to the plugin and from it."""

    def __init__(self, fd):
        self.fd = fd
        self.lock = threading.RLock()
        self.buffer = bytearray()
        # Whether an answer is still to come, or a part of one.
        self.owed = False

    def send(self, head, blob=b""):
        text = json.dumps(head)
        if "\\ud" in text:
            text = json.dumps(whole(head))
        text = text.encode("ascii")
        frame = memoryview(LENGTHS.pack(len(text), len(blob)) + text + blob)
        with self.lock:
            while frame:
                frame = frame[_write(self.fd, frame) :]

    def receive(self):
        texts, blobs = LENGTHS.unpack(self.take(LENGTHS.size))
        return json.loads(self.take(texts)), self.take(blobs)

    def take(self, count):
        while len(self.buffer) < count:
            more = _read(self.fd, max(65_536, count - len(self.buffer)))
            if not more:
                raise Gone()
            self.buffer += more
        taken = bytes(self.buffer[:count])
        del self.buffer[:count]
        return taken

    def ask(self, head):
        """Sends a question of the job, and waits for the answer."""
        with self.lock:
            if not state.is_running:
                raise RuntimeError("no job is running here any more")
            if self.owed:
                raise RuntimeError("the host still owes an answer: a question was interrupted by a signal")
            return self.exchange(head)

    def exchange(self, head):
        """Sends, and waits for the answer. What a signal handler of the code raises leaves it owed."""
        self.owed = True
        self.send(head)
        answer = self.receive()
        self.owed = False
        return answer


class State:
    """What there is while a job runs."""

    is_running = False
    # True in a process that the code of a handler forked off.
    is_child = False
    lines = 0
    # Lines that came while the plugin owed an answer.
    unsaid = 0
    # As the system counts them.
    threads = 0


state = State()


# What the code of handlers sees: the module `axwatch`, whose names are there without an import too.


class Permanent(Exception):
    """Fails the job for good: it is not tried again."""


class Refused(Permanent):
    """A claim or a question that the host does not take."""


class Unavailable(Exception):
    """The host did not answer; the job is tried again."""


class NotNow(Exception):
    """Puts the job off: it is tried again in so many seconds, and this attempt does not count."""

    def __init__(self, reason="not now", after=60):
        if not isinstance(reason, str):
            raise TypeError('NotNow: the reason is %s; write for example NotNow("too early", after=60)' % kind(reason))
        if isinstance(after, bool) or not isinstance(after, (int, float)) or not 0 <= after <= NOT_NOW_SECS_MAX:
            raise ValueError(
                "NotNow: after is %r; it must be a number of seconds from 0 to %d" % (after, NOT_NOW_SECS_MAX)
            )
        super().__init__(reason)
        self.seconds = after


def attest(subjects, predicates, contexts=None, actors=None, attributes=None):
    """Makes a claim on behalf of the job, and answers with it as a dict.

    Each of the four is a text or a list of texts; attributes is a dict.
    """
    claim = {
        "subjects": terms("subjects", subjects),
        "predicates": terms("predicates", predicates),
        "contexts": terms("contexts", contexts),
        "actors": terms("actors", actors),
    }
    if attributes is None:
        attributes = {}
    if not isinstance(attributes, dict):
        raise TypeError("attest: attributes is %s; it must be a dict" % kind(attributes))
    claim["attributes"] = json.loads(to_json(attributes, "attributes", Refused, bits=64))
    size = len(json.dumps(claim))
    if size > CLAIM_BYTES_MAX:
        raise Refused("attest: the claim has %d bytes of JSON; at most %d are taken" % (size, CLAIM_BYTES_MAX))
    return asked({"t": "attest", "claim": claim})


def query(ax, limit=100):
    """Finds claims by AX text, newest first, as a list of dicts."""
    if not isinstance(ax, str):
        raise TypeError("query: the question is %s; it must be AX text" % kind(ax))
    if not is_text(ax):
        raise Refused("query: the question has half a character (%s)" % short(ax))
    if isinstance(limit, bool) or not isinstance(limit, int) or not 0 <= limit <= QUERY_LIMIT_MAX:
        raise ValueError("query: limit is %r; it must be a whole number from 0 to %d" % (limit, QUERY_LIMIT_MAX))
    return asked({"t": "query", "ax": ax, "limit": limit})


def watch(*args, **kwargs):
    """Says what makes the function run. It is read from the text: here it does nothing."""
    return lambda function: function


def schedule(*args, **kwargs):
    """Says how often the function runs. It is read from the text: here it does nothing."""
    return lambda function: function


def terms(field, given):
    if given is None:
        return []
    if isinstance(given, str):
        given = [given]
    try:
        given = list(given)
    except TypeError:
        raise TypeError("attest: %s is %s; it must be a text or a list of texts" % (field, kind(given))) from None
    for index, term in enumerate(given):
        if not isinstance(term, str):
            raise TypeError("attest: %s[%d] is %s; it must be a text" % (field, index, kind(term)))
        if not is_text(term):
            raise Refused("attest: %s[%d] has half a character (%s)" % (field, index, short(term)))
    return given


def asked(question):
    head, blob = channel.ask(question)
    if "error" not in head:
        return json.loads(blob)
    raise (Refused if head["permanent"] else Unavailable)(head["error"])


def the_module(head):
    """The module `axwatch`, new for each job."""
    module = types.ModuleType("axwatch", "What axwatch offers to handlers.")
    module.__dict__.update(OFFERED, job_id=head["job_id"], attempt=head["attempt"], params=head["params"])
    return module


OFFERED = {
    "attest": attest,
    "query": query,
    "watch": watch,
    "schedule": schedule,
    "Permanent": Permanent,
    "Refused": Refused,
    "Unavailable": Unavailable,
    "NotNow": NotNow,
}


# Values as JSON.


def kind(value):
    if value is None:
        return "None"
    name = type(value).__name__
    return ("an " if name[:1].lower() in "aeiou" else "a ") + name


def is_text(value):
    """Whether a text is one outside of Python too: without half of a surrogate pair."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def whole(value):
    """The same with halves of characters written out, for text that is only shown."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {whole(key): whole(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [whole(part) for part in value]
    return value


def short(value):
    try:
        text = whole(repr(value))
    except Exception:
        return "…"
    return text if len(text) <= 80 else text[:79] + "…"


def to_json(value, name, error, bits=1_000):
    """The JSON of a value, or the error that says which part of it has none.

    Whole numbers may have so many bits.
    """
    try:
        text = json.dumps(value, allow_nan=False, separators=(",", ":"))
        # Half of a character beyond the first 65,536 is an escape that nobody can read.
        may_be_deep = text.count("[") + text.count("{") > LEVELS_MAX
        is_odd = "\\ud" in text or _long_number(text) or (may_be_deep and is_deep(value))
        why = not_json(value, name, (), bits) if is_odd else None
        if why is None:
            return text.encode("ascii")
    except (TypeError, ValueError, RecursionError) as problem:
        why = not_json(value, name, (), bits) or "%s: %s" % (name, problem)
    raise error(
        "%s; JSON holds text, numbers, True, False, None, lists, and dicts with text keys" % why
    ) from None


def is_deep(value):
    """Whether something that JSON holds nests too deeply."""
    level = [value] if isinstance(value, (dict, list, tuple)) else []
    for _ in range(LEVELS_MAX):
        parts = (whole.values() if isinstance(whole, dict) else whole for whole in level)
        level = [part for some in parts for part in some if isinstance(part, (dict, list, tuple))]
        if not level:
            return False
    return True


def not_json(value, path, above, bits):
    """Where the first part is that JSON cannot hold; None when there is none."""
    if isinstance(value, str):
        return None if is_text(value) else "%s has half a character (%s)" % (path, short(value))
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, int):
        if value.bit_length() > bits:
            return "%s is a whole number of %d bits" % (path, value.bit_length())
        return None
    if isinstance(value, float):
        return None if value - value == 0 else "%s is %r" % (path, value)
    if not isinstance(value, (dict, list, tuple)):
        return "%s is %s (%s)" % (path, kind(value), short(value))
    if id(value) in above:
        return "%s contains itself" % path
    if len(above) >= LEVELS_MAX:
        return "%s nests deeper than %d levels" % (path[:80], LEVELS_MAX)
    above = above + (id(value),)
    if isinstance(value, dict):
        for key in value:
            if isinstance(key, str) and not is_text(key):
                return "%s has a key with half a character (%s)" % (path, short(key))
            if not (key is None or isinstance(key, (str, int, float))):
                return "%s has a key that is %s (%s)" % (path, kind(key), short(key))
        parts = (("%s[%s]" % (path, short(key)), part) for key, part in value.items())
    else:
        parts = (("%s[%d]" % (path, index), part) for index, part in enumerate(value))
    for where, part in parts:
        found = not_json(part, where, above, bits)
        if found is not None:
            return found
    return None


def no_number(text):
    raise ValueError(text)


decode = json.JSONDecoder(parse_constant=no_number).decode


def payload_of(blob):
    """A value for JSON, a text for other text, and bytes for the rest; {} for nothing at all."""
    if not blob:
        return {}
    try:
        text = blob.decode("utf-8")
    except UnicodeDecodeError:
        return blob
    try:
        return decode(text)
    except (ValueError, RecursionError):
        return text


# One job.


class Code:
    """The code of a handler, ready to run."""

    def __init__(self, name, source):
        self.filename = "<%s>" % name
        self.source = source
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.compiled = compile(source, self.filename, "exec", dont_inherit=True)

    def tell(self):
        """Tells tracebacks what the lines are: those of another version are not."""
        lines = self.source.splitlines(True)
        linecache.cache[self.filename] = (len(self.source), None, lines, self.filename)


codes = {}
# By the name of the file that tracebacks know.
lines_of = {}


class NotJson(Permanent):
    """The answer has no JSON."""


def run(head, blob):
    started = _now()
    state.lines = state.unsaid = 0
    module = types.ModuleType("__handler__")
    sys.modules["__handler__"] = module
    sys.modules["axwatch"] = the_module(head)
    code, result = None, b"null"
    try:
        code = code_of(head)
        space = module.__dict__
        space.update(OFFERED)
        space["upstream"] = payload_of(blob)
        space["_result"] = None
        space["job_id"] = head["job_id"]
        space["attempt"] = head["attempt"]
        space["params"] = head["params"]
        state.is_running = True
        try:
            answer = answer_of(code, space, head.get("function"))
        finally:
            if state.is_child:
                raise Gone()
            state.is_running = False
        result = to_json(answer, "the result", NotJson)
        if len(result) > RESULT_BYTES_MAX:
            raise NotJson("the result has %d bytes of JSON; at most %d are kept" % (len(result), RESULT_BYTES_MAX))
        done = {"outcome": "ok"}
    except Gone:
        raise
    except MemoryError as error:
        done = out_of_memory(error, code, module)
    except BaseException as error:
        done, result = failed(error, code, module), b"null"
    sys.modules.pop("__handler__", None)
    # What the code opened is closed with it.
    answer = error = code = module = space = None
    flush()
    done["t"] = "done"
    done["us"] = (_now() - started) // 1_000
    done["unsent"] = max(0, state.lines - LOG_LINES_MAX) + state.unsaid
    done.setdefault("tainted", clean_up())
    channel.send(done, result if done["outcome"] == "ok" else b"null")


def answer_of(code, space, function):
    try:
        exec(code.compiled, space)
    except SystemExit as leaving:
        if leaving.code not in (None, 0):
            raise
        return space.get("_result")
    if function:
        called = space.get(function)
        if not callable(called):
            raise Permanent("the handler has no function %s" % function)
    else:
        called = space.get("main")
        if not callable(called):
            return space.get("_result")
    try:
        answer = call(called, space["upstream"] if "upstream" in space else None)
    except SystemExit as leaving:
        if leaving.code not in (None, 0):
            raise
        answer = None
    return space.get("_result") if answer is None else answer


def call(function, upstream):
    inner = getattr(function, "__code__", None)
    # One that takes nothing, *args neither.
    takes_none = inner is not None and inner.co_argcount == 0 and not inner.co_flags & 0x04
    answer = function() if takes_none else function(upstream)
    if isinstance(answer, types.CoroutineType):
        import asyncio

        answer = asyncio.run(answer)
    return answer


def code_of(head):
    if head.get("forget"):
        codes.clear()
        lines_of.clear()
        linecache.clearcache()
    version = head.get("version")
    code = codes.get(version)
    if code is None:
        code = Code(head["name"], head["code"])
        if version is not None:
            codes[version] = code
    if lines_of.get(code.filename) is not code:
        lines_of[code.filename] = code
        code.tell()
    return code


def failed(error, code, module):
    """What the plugin is told of an exception, one of the code's own making too."""
    try:
        return told_of(error, code)
    except MemoryError as problem:
        return out_of_memory(problem, code, module)
    except BaseException as problem:
        told = "%s, and what it says cannot be had: %s" % (type(error).__name__, type(problem).__name__)
        return {"outcome": "permanent" if isinstance(error, Permanent) else "error", "error": told}


def told_of(error, code):
    if isinstance(error, NotNow):
        seconds = error.seconds
        if isinstance(seconds, (int, float)) and 0 <= seconds <= NOT_NOW_SECS_MAX:
            return {"outcome": "not_now", "error": str(error), "seconds": float(seconds)}
    if isinstance(error, NotJson):
        return {"outcome": "permanent", "error": str(error)}
    if isinstance(error, SystemExit):
        return {"outcome": "error", "error": "the handler called sys.exit(%s)" % short(error.code)}
    told = explain(error, code)
    if isinstance(error, Permanent):
        reason = str(error) or type(error).__name__
        return {"outcome": "permanent", "error": reason, "traceback": told}
    # What does not compile never will.
    is_text = code is None and isinstance(error, (SyntaxError, ValueError, RecursionError))
    return {"outcome": "unloadable" if is_text else "error", "error": told, "traceback": told}


def out_of_memory(error, code, module):
    state.reserve = None
    traceback.clear_frames(error.__traceback__)
    module.__dict__.clear()
    limit = "a worker may have %d MiB (memory_mb in the table of the plugin)" % (state.memory >> 20)
    if not state.memory:
        limit = "the machine has no more"
    try:
        told = explain(error, code).rstrip() + "\n" + limit
    except BaseException:
        told = "MemoryError: " + limit
    return {"outcome": "error", "error": told, "traceback": told, "tainted": "ran out of memory"}


def explain(error, code):
    """The traceback of an exception, as if there were nothing of ours around the code."""
    if code is not None:
        code.tell()
    try:
        told = traceback.TracebackException(type(error), error, error.__traceback__)
        without_ours(told, 0)
        text = "".join(told.format())
    except MemoryError:
        raise
    except BaseException as problem:
        text = "%s (and no traceback: %s)" % (type(error).__name__, type(problem).__name__)
    return cut(text, TRACEBACK_CHARS_MAX)


def without_ours(told, depth):
    if told is None or depth > 50:
        return
    told.stack[:] = [frame for frame in told.stack if frame.filename != OURS]
    without_ours(told.__cause__, depth + 1)
    without_ours(told.__context__, depth + 1)
    for part in getattr(told, "exceptions", None) or ():
        without_ours(part, depth + 1)


def cut(text, most):
    """Without its middle where it is too long: how it began and how it ended say the most."""
    if len(text) <= most:
        return text
    head = most // 4
    left_out = len(text) - most
    return "%s\n[… %d characters are left out …]\n%s" % (text[:head], left_out, text[-(most - head) :])


# What a job finds, whatever the one before did.


def flush():
    for stream in (sys.stdout, sys.stderr, out, err):
        try:
            stream.flush()
        except BaseException:
            pass


def clean_up():
    """Puts back what is easily put back; answers what is not, for which this process has to end."""
    if channel.owed:
        return "was interrupted while it asked the host"
    try:
        sys.stdout, sys.stderr = out, err
        if out.closed or err.closed or not is_intact() or sys.gettrace() or sys.getprofile():
            return "changed the interpreter"
        if file_of(1) != pipes[0] or file_of(2) != pipes[1]:
            return "changed its standard output or standard error"
        if process_state() != process_first:
            return "changed how its process treats signals, its limits or its place among processes"
        if has_threads():
            return "left a thread running"
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
        return "left a process running"
    except ChildProcessError:
        pass
    except BaseException as problem:
        return "cannot be cleaned up: %s" % type(problem).__name__
    try:
        for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
            signal.setitimer(timer, 0)
        sys.setrecursionlimit(recursion_limit)
        sys.path[:] = paths
        sys.argv[:] = [""]
        if not all(map(sys.meta_path.__contains__, finders)) or not all(map(sys.path_hooks.__contains__, hooks)):
            return "changed how modules are found"
        if os.getcwd() != folder:
            os.chdir(folder)
        os.umask(umask)
        if encoded() != encoded_first:
            os.environ.clear()
            os.environ.update(environment)
        put_back_logging()
        if len(root.manager.loggerDict) > LOGGERS_MAX:
            return "made a great many loggers"
        if keeps_files():
            return "left files open"
        size, resident = (int(pages) * page for pages in os.pread(statm, 64, 0).split()[:2])
    except BaseException as problem:
        return "cannot be cleaned up: %s" % type(problem).__name__
    # The next job is to have most of it.
    if state.memory and (resident > state.memory // 2 or size > state.memory // 8 * 7):
        return "kept much memory"
    return None


def is_intact():
    """Whether what the next job needs of the interpreter and of its library is what it was."""
    return vars(builtins) == _INTACT and all(space.get(name) is value for space, name, value in _USED)


def process_state():
    """What the system keeps of this process that the code may have changed."""
    return (
        list(map(_getsignal, signals)),
        _pthread_sigmask(signal.SIG_BLOCK, ()),
        [resource.getrlimit(limit) for limit in limits],
        os.getpgrp(),
        os.getpriority(os.PRIO_PROCESS, 0),
    )


def keeps_files():
    """Whether files that the code opened are open still. A few may be a module's."""
    if first_free_fd() < free_fd + FILES_LEFT_MAX:
        return False
    gc.collect()
    return first_free_fd() >= free_fd + FILES_LEFT_MAX


def first_free_fd():
    fd = os.dup(0)
    os.close(fd)
    return fd


def put_back_logging():
    """Loggers are what they were before any code ran; those that came since are as new ones."""
    lines.level, lines.formatter = logging.NOTSET, None
    lines.filters[:] = []
    put_back_logger(root, (logging.INFO, True, False, [], [lines]))
    if root.manager.disable:
        logging.disable(logging.NOTSET)
    logging.setLogRecordFactory(log_record)
    logging.setLoggerClass(logger_class)
    if logging._warnings_showwarning is not None:
        logging.captureWarnings(False)
    known = root.manager.loggerDict
    for name, logger in list(known.items()):
        if isinstance(logger, logging.Logger):
            put_back_logger(logger, loggers.get(name) or new_logger(logger))
        if name.split(".")[0] in ("__handler__", "__main__", "axwatch"):
            del known[name]


def new_logger(logger):
    """A library may have added a handler that does nothing."""
    silent = [handler for handler in logger.handlers if isinstance(handler, logging.NullHandler)]
    return (logging.NOTSET, True, False, [], silent)


def put_back_logger(logger, first):
    level, propagate, disabled, filters, handlers = first
    if logger.level != level:
        logger.setLevel(level)
    logger._cache.clear()
    logger.propagate, logger.disabled = propagate, disabled
    logger.filters[:] = filters
    logger.handlers[:] = handlers


def encoded():
    """The environment as the interpreter keeps it, which is quick to compare."""
    data = getattr(os.environ, "_data", None)
    return dict(os.environ) if data is None else dict(data)


def has_threads():
    """Whether threads of the code run on. Those that libraries have for themselves are none of it."""
    # One that has just begun shows itself when it is its turn, which it has to wait for on a busy machine.
    for _ in range(250):
        threads = os.fstat(tasks).st_nlink
        if threads <= state.threads:
            break
        if _thread._count() > 0 or len(sys._current_frames()) > 1:
            return True
        time.sleep(0.002)
    state.threads = threads
    return _thread._count() > 0 or len(sys._current_frames()) > 1


def file_of(fd):
    seen = os.fstat(fd)
    return (seen.st_dev, seen.st_ino)


class Lines(logging.Handler):
    """What is logged becomes a line of the job's log."""

    def emit(self, record):
        if not state.is_running or state.is_child:
            return
        state.lines += 1
        if state.lines > LOG_LINES_MAX:
            return
        try:
            message = cut(self.format(record), LOG_BYTES_MAX // 4)
        except Exception:
            self.handleError(record)
            return
        flush()
        # The answer says that it has its place among what is printed.
        with channel.lock:
            if channel.owed:
                state.unsaid += 1
                return
            channel.exchange({"t": "log", "level": level_of(record.levelno), "message": message})


def level_of(number):
    for level, name in ((logging.ERROR, "error"), (logging.WARNING, "warn"), (logging.INFO, "info")):
        if number >= level:
            return name
    return "debug"


# What the text of a handler says, without running it.


class Mistake(Exception):
    """Something in the text, and where."""

    def __init__(self, message, node):
        super().__init__(message)
        self.line = getattr(node, "lineno", None)
        self.column = getattr(node, "col_offset", -1) + 1 or None


def check(head):
    channel.send({"t": "checked", "items": [checked(item["name"], item["code"]) for item in head["items"]]})


def checked(name, source):
    try:
        code = Code("handler " + name, source)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source, code.filename)
        return declared(name, tree)
    except SyntaxError as error:
        text = error.text.rstrip("\n") if isinstance(error.text, str) else None
        return mistake(error.msg, error.lineno, error.offset, text)
    except Mistake as error:
        lines = source.splitlines()
        text = lines[error.line - 1] if error.line and error.line <= len(lines) else None
        return mistake(str(error), error.line, error.column, text)
    except MemoryError:
        # Parsers call it so too when code nests too deeply. Without room another process may know.
        if state.memory and not has_room():
            raise
        return mistake("it nests too deeply or is too large to be read", None, None, None)
    except RecursionError:
        return mistake("it nests too deeply to be read", None, None, None)
    except ValueError as error:
        return mistake(str(error), None, None, None)


def has_room():
    try:
        # Asked for, and not touched.
        mmap.mmap(-1, state.memory // 2).close()
        return True
    except (MemoryError, OSError):
        return False


def mistake(message, line, column, text):
    error = {"message": message, "line": line, "column": column, "text": text and text[:500]}
    return {"ok": False, "error": error}


def declared(name, tree):
    ours = {"watch": "watch", "schedule": "schedule"}
    watchers, schedules, functions = [], [], []
    for node in tree.body:
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            rename(ours, node)
            continue
        functions.append(node.name)
        counts = {"watch": 0, "schedule": 0}
        for decorator in node.decorator_list:
            which = which_of_ours(decorator, ours)
            if which is None:
                continue
            if not isinstance(decorator, ast.Call):
                example = '@watch("is commit")' if which == "watch" else '@schedule(every="5m")'
                raise Mistake("@%s says nothing; write for example %s" % (which, example), decorator)
            counts[which] += 1
            number = "" if counts[which] == 1 else "-%d" % counts[which]
            said = watched(decorator) if which == "watch" else scheduled(decorator, node)
            said["id"] = "%s-%s%s" % (name, node.name, number)
            said["function"] = node.name
            said["line"] = decorator.lineno
            (watchers if which == "watch" else schedules).append(said)
            if len(watchers) + len(schedules) > DECORATORS_MAX:
                raise Mistake("more than %d decorators in one handler" % DECORATORS_MAX, decorator)
        # From here on it is the name of the function.
        ours.pop(node.name, None)
    by_function = {said["function"] for said in watchers + schedules}
    for node in reversed(tree.body):
        function = getattr(node, "name", None)
        if function in by_function and functions.count(function) > 1:
            raise Mistake("%s is defined more than once, and has decorators" % function, node)
    return {"ok": True, "watchers": watchers, "schedules": schedules, "functions": functions}


def rename(names, node):
    """Under which names the text knows our decorators from here on: what it gives to something else is not ours."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            bound = alias.asname or alias.name.split(".")[0]
            names.pop(bound, None)
            if alias.name == "axwatch":
                names[bound] = None
    elif isinstance(node, ast.ImportFrom):
        for alias in node.names:
            bound = alias.asname or alias.name
            names.pop(bound, None)
            if node.module == "axwatch" and not node.level and alias.name in ("watch", "schedule"):
                names[bound] = alias.name
    elif isinstance(node, ast.Try):
        # What is done where there is no such module is not done here.
        for inner in node.body:
            rename(names, inner)
    elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        names.pop(node.name, None)
    elif isinstance(node, ast.Assign):
        for target in node.targets:
            if isinstance(target, ast.Name):
                names.pop(target.id, None)


def which_of_ours(decorator, ours):
    node = decorator.func if isinstance(decorator, ast.Call) else decorator
    if isinstance(node, ast.Name):
        return ours.get(node.id)
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        is_module = node.value.id in ours and ours[node.value.id] is None
        return node.attr if is_module and node.attr in ("watch", "schedule") else None
    return None


def arguments_of(call, positional, known):
    """The arguments of a decorator by name, each with its node. Only literals."""
    found = {}
    for index, node in enumerate(call.args):
        if isinstance(node, ast.Starred) or index >= len(positional):
            raise Mistake("only %s comes without a name" % " and ".join(positional), node)
        found[positional[index]] = node
    for keyword in call.keywords:
        if keyword.arg is None:
            raise Mistake("** is not read here; write the arguments out", call)
        if keyword.arg not in known:
            raise Mistake("%s is unknown; known are %s" % (keyword.arg, ", ".join(known)), keyword.value)
        if keyword.arg in found:
            raise Mistake("%s is given twice" % keyword.arg, keyword.value)
        found[keyword.arg] = keyword.value
    return {name: (literal(name, node), node) for name, node in found.items()}


def literal(name, node):
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        pass
    raise Mistake(
        "%s must be written out as text, a number or a list: the code is not run to find out" % name, node
    )


DIMENSIONS = ("subject", "predicate", "context", "actor")
WATCH_KNOWN = ("ax",) + tuple(word for one in DIMENSIONS for word in (one, one + "s")) + (
    "max_fires_per_second",
    "since",
)


def watched(decorator):
    given = arguments_of(decorator, ("ax",), WATCH_KNOWN)
    said = {}
    for one in DIMENSIONS:
        found = []
        if one in given:
            value, node = given[one]
            if not isinstance(value, str) or not value:
                raise Mistake("%s is %s; it must be a text" % (one, short(value)), node)
            found.append(value)
        if one + "s" in given:
            value, node = given[one + "s"]
            value = [value] if isinstance(value, str) else value
            if not isinstance(value, (list, tuple, set)) or not value:
                raise Mistake("%ss is %s; it must be a list of texts" % (one, short(value)), node)
            for term in sorted(value, key=str) if isinstance(value, set) else value:
                if not isinstance(term, str) or not term:
                    raise Mistake("%ss has %s in it; it must be a list of texts" % (one, short(term)), node)
                found.append(term)
        if found:
            said[one + "s"] = found
    if "ax" in given:
        value, node = given["ax"]
        if not isinstance(value, str) or not value.strip():
            raise Mistake("the query is %s; it must be AX text" % short(value), node)
        if said:
            raise Mistake("AX text and %s together; say it all in the text" % ", ".join(said), node)
        said["ax"] = value
    if not said:
        raise Mistake("it would watch everything; name AX text, or a predicate, a context …", decorator)
    if "max_fires_per_second" in given:
        value, node = given["max_fires_per_second"]
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 100_000:
            raise Mistake(
                "max_fires_per_second is %s; it must be a whole number from 1 to 100000" % short(value), node
            )
        said["max_fires_per_second"] = value
    if "since" in given:
        value, node = given["since"]
        if not isinstance(value, str) or not value:
            raise Mistake('since is %s; it must be a time as text, such as "2024-05-15"' % short(value), node)
        said["since"] = value
    return said


def scheduled(decorator, function):
    given = arguments_of(decorator, ("every",), ("every",))
    if "every" not in given:
        raise Mistake('every is missing; write for example @schedule(every="5m")', decorator)
    value, node = given["every"]
    secs = seconds_of(value)
    if secs is None or not 1 <= secs <= EVERY_SECS_MAX:
        raise Mistake(
            'every is %s; it must be whole seconds, at least 1, or a text such as "90s", "5m", "1h30m", "1d"'
            % short(value),
            node,
        )
    says = (ast.get_docstring(function) or "").strip().splitlines()
    return {"every_secs": secs, "description": says[0][:200] if says else ""}


def seconds_of(value):
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    if not isinstance(value, str):
        return int(value) if value == value and abs(value) < 1e12 and value == int(value) else None
    units = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
    total, digits = 0, ""
    for letter in value.replace(" ", ""):
        if letter in "0123456789" and len(digits) < 12:
            digits += letter
        elif letter in units and digits:
            total, digits = total + int(digits) * units[letter], ""
        else:
            return None
    return total if total and not digits else None


# The process.


def forked():
    """In a process that the code made of this one: it has nothing to say to the plugin."""
    state.is_child = True
    state.is_running = False
    try:
        os.close(channel.fd)
    except OSError:
        pass


def confine():
    """Ends with the plugin, or with the program between the two, and is the parent of whatever a job leaves behind. Answers whether it is."""
    try:
        import ctypes

        prctl = ctypes.CDLL(None).prctl
        prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        adopts = prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    except Exception:
        adopts = False
    # A plugin that was gone before has closed the connection, and that ends this process too.
    return adopts


def bound(memory):
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    state.memory = memory
    # For what is left to be said when there is no more: an arena of the interpreter and then some.
    state.reserve = bytearray(8 << 20)


def text_stream(fd):
    raw = io.FileIO(fd, "w", closefd=False)
    return io.TextIOWrapper(io.BufferedWriter(raw), "utf-8", "backslashreplace", line_buffering=True)


channel = Channel(os.dup(0))
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
sys.stdin = open(0, closefd=False)
out, err = text_stream(1), text_stream(2)
sys.stdout, sys.stderr = out, err
pipes = (file_of(1), file_of(2))
statm = os.open("/proc/self/statm", os.O_RDONLY)
tasks = os.open("/proc/self/task", os.O_RDONLY)
state.threads = os.fstat(tasks).st_nlink
os.register_at_fork(after_in_child=forked)
root = logging.getLogger()
root.setLevel(logging.INFO)
lines = Lines()
root.handlers[:] = [lines]

begin, _ = channel.receive()
sys.path[:0] = begin["python_paths"]
sys.argv[:] = [""]
paths = list(sys.path)
finders, hooks = list(sys.meta_path), list(sys.path_hooks)
folder = os.getcwd()
umask = os.umask(0o077)
os.umask(umask)
environment = dict(os.environ)
encoded_first = encoded()
page = resource.getpagesize()
recursion_limit = sys.getrecursionlimit()
adopts = confine()
bound(begin["memory_bytes"])
log_record, logger_class = logging.getLogRecordFactory(), logging.getLoggerClass()
loggers = {
    name: (logger.level, logger.propagate, logger.disabled, list(logger.filters), list(logger.handlers))
    for name, logger in root.manager.loggerDict.items()
    if isinstance(logger, logging.Logger)
}
signals = [int(number) for number in signal.valid_signals()]
limits = [
    getattr(resource, "RLIMIT_" + name)
    for name in "AS CPU FSIZE NOFILE NPROC".split()
    if hasattr(resource, "RLIMIT_" + name)
]
process_first = process_state()
free_fd = first_free_fd()
channel.send({"t": "ready", "adopts": adopts})

try:
    while True:
        asked_for, bytes_with_it = channel.receive()
        if asked_for["op"] == "run":
            run(asked_for, bytes_with_it)
        else:
            check(asked_for)
        asked_for = bytes_with_it = None
except Gone:
    flush()
    os._exit(0)
