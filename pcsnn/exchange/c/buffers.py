"""Places in memory of values that live for a part of a run only."""

from dataclasses import dataclass, field


@dataclass(eq=False)
class Buffer:
    """Elements of a block, from the step that writes them to the last one that reads them."""

    size: int
    written: int
    read: int
    offset: int = 0


@dataclass
class Block:
    """A static array in which buffers lie, one over another where none of them is needed any more."""

    name: str
    kind: str
    buffers: list[Buffer] = field(default_factory=list)

    def buffer(self, size, step):
        made = Buffer(size, step, step)
        self.buffers.append(made)
        return made

    def place(self):
        """Give each buffer the first place that is free for as long as it lives; returns the size of the block."""
        placed = []
        for new in self.buffers:
            taken = [old for old in placed if old.read >= new.written and new.read >= old.written]
            new.offset = 0
            for old in sorted(taken, key=lambda buffer: buffer.offset):
                if new.offset + new.size <= old.offset:
                    break
                new.offset = max(new.offset, old.offset + old.size)
            placed.append(new)
        return max((buffer.offset + buffer.size for buffer in self.buffers), default=0)
