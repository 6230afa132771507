"""CEL expressions about a flow: the only module with the CEL runtime.

The runtime is imported when the first expression comes. It bounds what an expression may
cost (depth, iterations), so that a client cannot hold the loop with one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from api.v1.flow import flow_pb2
from parsers.errors import UsageError

_MOST = 32  # of one filter; each may take the runtime's 10,000 iterations a flow
FlowTest = Callable[[flow_pb2.Flow], bool]


def expressions(texts: Iterable[str]) -> FlowTest:
    """Whether one of the expressions is true of a flow, which they know as ``_flow``.

    One that fails says no for all of them, as Hubble has it. Unlike there, ``_flow.is_reply``
    is a condition, though it may be absent: then it is not true. ``UsageError`` for a text that is
    no expression, or not a condition.
    """
    from cel_expr_python import cel  # noqa: PLC0415  # 14 MB that few need

    texts = list(texts)
    if len(texts) > _MOST:
        raise UsageError(f"{len(texts)} CEL expressions are too many; use at most {_MOST}")
    environment = cel.NewEnv(variables={"_flow": cel.Type("flow.Flow")}, container="flow")
    compiled = []
    for text in texts:
        try:
            expression = environment.compile(text)
        except RuntimeError as error:
            reason = str(error).removeprefix("INVALID_ARGUMENT: ")
            reason = reason.removesuffix(" [INVALID_ARGUMENT]")
            raise UsageError(f"error compiling CEL expression: {reason}") from None
        found = expression.return_type()
        if found != cel.Type.BOOL:
            name = found.name() if found.is_message() else found.name().lower()
            shown = name.replace("<", "(").replace(">", ")")
            raise UsageError(
                f'error compiling CEL expression: got "{shown}", wanted "bool" result type'
            )
        compiled.append(expression)

    def matches(flow: flow_pb2.Flow) -> bool:
        data = {"_flow": flow}
        for expression in compiled:
            try:
                value = expression.eval(data=data)
            except RuntimeError:
                return False
            if value.type() != cel.Type.BOOL:
                return False  # an error is a value too
            if value.value():
                return True
        return False

    return matches
