"""`<think>...</think>` before the answer: DeepSeek, Qwen3, GLM-4.5, Kimi K2 and most others.

Whether the answer begins inside depends on the template: some open the tag themselves (DeepSeek
R1, Qwen3-Thinking), some leave it to the model, some write an empty pair to switch thinking
off. The prompt shows it; without a prompt the family's habit decides. The tag is looked for at
the beginning only: an answer that has begun may talk about tags.
"""

from __future__ import annotations

from typing import ClassVar

from octavo.parsers.events import Text, Thought
from octavo.parsers.machine import REASONING, Machine, Marks
from octavo.parsers.splitter import SPACES, Parse


@REASONING.register("qwen3", "glm45", "deepseek_v3", "think")
class Think(Machine):
    """Never closed: all of it is thought. Never opened: all of it is text."""

    open: ClassVar[str] = "<think>"
    close_tag: ClassVar[str] = "</think>"
    leaves: ClassVar[tuple[str, ...]] = ()  # tags that end the thought too, and belong to the answer
    begins_inside: ClassVar[bool] = False
    again: ClassVar[bool] = False  # thoughts may come at any place

    def __init__(self, prompt: str | None = None) -> None:
        super().__init__()
        inside = None if prompt is None else prompt.rstrip(SPACES).endswith(self.open)
        self.inside = self.begins_inside if inside is None else inside

    @property
    def marks(self) -> Marks | None:
        return Marks(self.open, self.close_tag, self.inside)

    def parse(self) -> Parse[None]:
        s = self.source
        yield from self.blank()
        tag = yield from s.literal(self.open, self.close_tag)
        if tag:
            yield from self.seam()
        if tag == self.open or (self.inside and not tag):
            tag = yield from self._thought(*self.leaves)
            if tag in self.leaves:
                yield Text(tag)
        yield from self.answer()

    def answer(self) -> Parse[None]:
        """What follows the thought."""
        while self.again and (yield from self.source.stream(Text, self.open)):
            yield from self._thought()
        yield from self.source.stream(Text)

    def _thought(self, *leaves: str) -> Parse[str]:
        tag = yield from self.source.stream(Thought, self.close_tag, *leaves)
        if tag:
            yield from self.seam()
        return tag


@REASONING.register("deepseek_r1")
class DeepSeekR1(Think):
    """The template opens the tag; older ones leave it to the model."""

    begins_inside = True


@REASONING.register("kimi_k2")
class KimiK2(Think):
    """Calls may begin without the thought being closed."""

    leaves = ("<|tool_calls_section_begin|>",)


@REASONING.register("mistral")
class Magistral(Think):
    """`[THINK]...[/THINK]`; text may come before."""

    open = "[THINK]"
    close_tag = "[/THINK]"
    again = True
