"""What the ledger says now: aliases, states, gates. A pure fold over its entries."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from experiments.registry.records import Alias, GateRef, Kind, LedgerEntry, State, VersionRef


@dataclass(slots=True)
class Standing:
    """One model."""

    name: str
    versions: dict[str, VersionRef] = field(default_factory=dict)
    """Registered versions, in order of registration."""
    aliases: dict[Alias, VersionRef] = field(default_factory=dict)
    champions: list[VersionRef] = field(default_factory=list)
    """Champions that a rollback can return to, oldest first; the last one is the present."""
    was_champion: set[str] = field(default_factory=set)
    """Every version that ever was."""
    gates: dict[str, list[GateRef]] = field(default_factory=dict)
    """Gate reports by SHA-256 of the model file, oldest first."""
    retired: set[str] = field(default_factory=set)
    moves: dict[Alias, LedgerEntry] = field(default_factory=dict)
    """The entry that moved each alias last."""

    def state(self, version: str) -> State:
        """Return where a version is in its life."""
        champion = self.aliases.get(Alias.CHAMPION)
        if champion is not None and champion.version == version:
            return State.PRODUCTION
        challenger = self.aliases.get(Alias.CHALLENGER)
        if challenger is not None and challenger.version == version:
            return State.VALIDATION
        if version in self.retired or version in self.was_champion:
            return State.ARCHIVED
        if self.gates.get(self.versions[version].sha256):
            return State.VALIDATION
        return State.TRAINING

    def aliases_of(self, version: str) -> list[Alias]:
        """Return the aliases that point at a version."""
        return [alias for alias, ref in self.aliases.items() if ref.version == version]

    @property
    def previous_champion(self) -> VersionRef | None:
        """The champion that a rollback without a name returns to."""
        return self.champions[-2] if len(self.champions) > 1 else None

    def apply(self, entry: LedgerEntry) -> None:
        """Take one entry into account."""
        match entry.kind:
            case Kind.REGISTER:
                self.versions[entry.target.version] = entry.target
                self.aliases[Alias.CANDIDATE] = entry.target
            case Kind.GATE:
                if entry.gate is not None:
                    self.gates.setdefault(entry.target.sha256, []).append(entry.gate)
            case Kind.PROMOTE | Kind.ROLLBACK:
                self._move(entry)
            case Kind.RETIRE:
                self.retired.add(entry.target.version)
                self.champions = [ref for ref in self.champions if ref != entry.target]
                for alias in self.aliases_of(entry.target.version):
                    del self.aliases[alias]

    def _move(self, entry: LedgerEntry) -> None:
        target, alias = entry.target, entry.alias or Alias.CHAMPION
        for other in (Alias.CHALLENGER, Alias.CANDIDATE):
            if self.aliases.get(other) == target:
                del self.aliases[other]
        self.aliases[alias] = target
        self.moves[alias] = entry
        if alias is not Alias.CHAMPION:
            return
        self.was_champion.add(target.version)
        if entry.kind is Kind.ROLLBACK and target in self.champions:
            # What came after it was judged bad: the next rollback goes further back.
            del self.champions[self.champions.index(target) + 1 :]
        else:
            self.champions.append(target)


def standings(entries: Iterable[LedgerEntry]) -> dict[str, Standing]:
    """Return the standing of every model, by name."""
    models: dict[str, Standing] = {}
    for entry in entries:
        models.setdefault(entry.model, Standing(entry.model)).apply(entry)
    return models
