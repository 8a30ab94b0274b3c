"""GraphQL without a schema: the selection of a query is walked over plain objects.

An attribute or key named as the field answers it, a callable is a field with arguments, and what
nobody defined is null; so a newer client that asks for more is mostly answered as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from graphql import parse
from graphql.language.ast import (
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    InlineFragmentNode,
    OperationDefinitionNode,
    SelectionNode,
)
from graphql.utilities import value_from_ast_untyped as value_of


class Operation:
    """The first operation of a document."""

    def __init__(self, document: str) -> None:
        definitions = parse(document).definitions
        self.fragments = {
            d.name.value: d for d in definitions if isinstance(d, FragmentDefinitionNode)
        }
        self.node = next(d for d in definitions if isinstance(d, OperationDefinitionNode))
        self.name = self.node.name.value if self.node.name else ""
        self.variables: dict[str, Any] = {}

    def execute(self, root: object, variables: dict[str, Any] | None) -> dict[str, Any]:
        declared = self.node.variable_definitions or ()
        defaults = {
            v.variable.name.value: value_of(v.default_value) for v in declared if v.default_value
        }
        self.variables = {**defaults, **(variables or {})}
        return self._walk(root, self.node.selection_set.selections, {})

    def _walk(
        self, value: object, selections: Iterable[SelectionNode], out: dict[str, Any]
    ) -> dict[str, Any]:
        for node in selections:
            if self._left_out(node):
                continue
            if isinstance(node, FieldNode):
                out[node.alias.value if node.alias else node.name.value] = self._field(value, node)
            elif isinstance(node, FragmentSpreadNode):
                fragment = self.fragments[node.name.value]
                self._walk(value, fragment.selection_set.selections, out)
            elif isinstance(node, InlineFragmentNode) and self._is_meant(value, node):
                self._walk(value, node.selection_set.selections, out)
        return out

    def _field(self, parent: object, node: FieldNode) -> Any:
        name = node.name.value
        value = typename(parent) if name == "__typename" else get(parent, name)
        if callable(value):
            value = value(
                **{a.name.value: value_of(a.value, self.variables) for a in node.arguments or ()}
            )
        return self._shape(value, node)

    def _shape(self, value: Any, node: FieldNode) -> Any:
        if isinstance(value, list):
            return [self._shape(one, node) for one in value]
        if node.selection_set and value is not None:
            return self._walk(value, node.selection_set.selections, {})
        return value

    def _left_out(self, node: SelectionNode) -> bool:
        """By @include(if: …) or @skip(if: …)."""
        return any(
            (d.name.value == "include") != bool(value_of(a.value, self.variables))
            for d in node.directives or ()
            for a in d.arguments or ()
        )

    @staticmethod
    def _is_meant(value: object, node: InlineFragmentNode) -> bool:
        return node.type_condition is None or node.type_condition.name.value == typename(value)


def get(value: object, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else getattr(value, name, None)


def typename(value: object) -> str:
    return str(get(value, "__typename") or type(value).__name__)


def connection(nodes: list[Any]) -> dict[str, Any]:
    """All nodes on one page."""
    edges = [{"node": n, "version": f"v{getattr(n, 'versionIndex', 0)}"} for n in nodes]
    page = {"hasNextPage": False, "__typename": "PageInfo"}
    return {"totalCount": len(nodes), "edges": edges, "pageInfo": page}
