"""What a type checker must let pass: each function of a plugin, `async`; and defaults of another type."""

from typing import Dict, List, Optional, Tuple, Union

from axwatch_sdk import Health, Job, Plugin, Request, Socket, Start

plugin = Plugin("typed", "1.0.0", "has types")


@plugin.handler()
async def handle(job: Job) -> None:
    pass


@plugin.on_start
async def start(start: Start) -> None:
    depth: int = start.config.integer("depth", 3)
    most: Optional[int] = start.config.integer("most", None)
    hosts: Union[List[str], Tuple[()]] = start.config.array("hosts", ())
    print(depth, most, hosts, start.config.string("name").upper())


@plugin.route("GET", "/")
async def route(request: Request) -> Dict[str, str]:
    return {"path": request.path}


@plugin.socket
async def talk(socket: Socket) -> None:
    socket.send("hello")


@plugin.health
async def health() -> Health:
    return Health()


@plugin.on_shutdown
async def last() -> None:
    pass
