"""Docstrings have roles of reStructuredText; the site needs Markdown."""

import re
import textwrap
from typing import Any

from griffe import Extension

ROLE = re.compile(r":(?:class|func|mod|meth|attr|data|obj|exc):`(~?)([\w.]+)`")
INLINE = re.compile(r":math:`([^`]*)`")
BLOCK = re.compile(r"^( *)\.\. math::[ \n]*((?:.+\n?)+?)(?=\n|\Z)", re.MULTILINE)
TABLE = re.compile(r"^=+ +=[= ]*\n(?:.*\n)+?=+ +=[= ]*$\n(?:(?:.+\n)+=+ +=[= ]*$)?", re.MULTILINE)


def markdown(text: str) -> str:
    """The docstring with its roles, formulas and tables in Markdown."""

    def reference(found: re.Match[str]) -> str:
        name = found[2].rpartition(".")[2] if found[1] else found[2]
        return f'<autoref identifier="{found[2]}" optional><code>{name}</code></autoref>'

    def block(found: re.Match[str]) -> str:
        lines = " ".join(line.strip() for line in found[2].splitlines())
        return f"\n{found[1]}$$\n{found[1]}{lines}\n{found[1]}$$\n"

    text = BLOCK.sub(block, text.replace("``", "`"))
    text = TABLE.sub(lambda found: "```text\n" + found[0].rstrip() + "\n```\n", text)
    return ROLE.sub(reference, INLINE.sub(r"$\1$", text))


class Roles(Extension):
    """Rewrites each docstring before it is parsed."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Rewrite the docstring of one object."""
        if obj.docstring:
            obj.docstring.value = markdown(textwrap.dedent(obj.docstring.value))
