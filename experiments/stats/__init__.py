"""Statistics of experiments: sufficient statistics in, a frozen comparison out.

Nothing is re-exported, so that importing one module (a schema, an error) does not load numpy and
scipy. The map: `moments`, `ratio`, `cuped` and `quantile` hold what an arm is reduced to; `effects`
turns two arms into an effect with a standard error; `means`, `proportions`, `relative`,
`sequential` and `group_sequential` make an interval and a p-value of it; `analysis` picks one.
"""
