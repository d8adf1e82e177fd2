"""KV memory as lists of cells, to hold the ledger and the prefix cache against."""


class FakeMemory:
    """Sequences as lists of cell objects; a cell lives while a list holds it."""

    def __init__(self, n_sequences):
        self.cells = {i: [] for i in range(n_sequences)}

    def share(self, source, target, n_tokens):
        self.cells[target] = self.cells[source][:n_tokens]

    def cut(self, seq_id, n_tokens):
        del self.cells[seq_id][n_tokens:]

    def length(self, seq_id):
        return len(self.cells[seq_id])

    def used(self, seq_ids):
        return len({id(cell) for i in seq_ids for cell in self.cells[i]})
