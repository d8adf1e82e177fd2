"""Bounds of a schema. All of them together bound the size of the grammar that it becomes."""

MAX_SCHEMA_BYTES = 16 * 1024
MAX_DEPTH = 8
"""Objects and arrays inside one another."""
MAX_PROPERTIES = 64
"""Properties over all objects of a schema, each definition counted once."""
MAX_ENUM_VALUES = 512
"""Values over all enums of a schema."""
MAX_NAME_CHARS = 128
MAX_LENGTH = 512
"""Largest `maxLength`, `minLength`, `maxItems` and `minItems`: llama.cpp makes a rule of each."""
MAX_MAGNITUDE = 10**15
"""Largest bound of a number; every integer up to it is exact in a double."""
MIN_DECIMALS = 2
MAX_DECIMALS = 6
"""Numbers with bounds have two decimals, or as many as their bounds have, up to six."""
MAX_REPETITIONS = 16_384
"""Rules that all repetitions of a grammar may expand to."""
ANY_JSON_DEPTH = 5
"""Nesting inside an object that may hold anything."""
