from axwatch_sdk._proto import plugin_pb2 as _plugin_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AnnounceRequest(_message.Message):
    __slots__ = ("auth_token", "announcement")
    AUTH_TOKEN_FIELD_NUMBER: _ClassVar[int]
    ANNOUNCEMENT_FIELD_NUMBER: _ClassVar[int]
    auth_token: str
    announcement: _plugin_pb2.InitializeResponse
    def __init__(self, auth_token: _Optional[str] = ..., announcement: _Optional[_Union[_plugin_pb2.InitializeResponse, _Mapping]] = ...) -> None: ...

class AnnounceResponse(_message.Message):
    __slots__ = ("success", "error", "refused")
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    success: bool
    error: str
    refused: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, success: bool = ..., error: _Optional[str] = ..., refused: _Optional[_Iterable[str]] = ...) -> None: ...

class StoredHandlersRequest(_message.Message):
    __slots__ = ("auth_token", "version")
    AUTH_TOKEN_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    auth_token: str
    version: str
    def __init__(self, auth_token: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class StoredHandler(_message.Message):
    __slots__ = ("name", "version", "seq", "code", "faulted")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    FAULTED_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    seq: int
    code: str
    faulted: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., seq: _Optional[int] = ..., code: _Optional[str] = ..., faulted: _Optional[str] = ...) -> None: ...
