"""Why a trained model predicts what it does: for one patient, for a cohort, in numbers and words.

A prediction is held against the study's public reference: a patient whose numbers are the
features' reference means, whose categories and flags are the first ones, whose blocks are measured
and average, who gets no treatment, and whose visits are those of the patient in question with every
marker at its reference mean. No other patient is ever a background. What lies between the two
predictions is divided among the features, genes, markers and treatments, on the scale that a person
is shown (mg/week, not its square root).

The types: a `Question` says which number is explained (`outcome`). A `Game` turns a patient into
parts that are each as measured or as in the reference (`game`). `attribute` divides what lies
between (`attribution`), and `explain` makes an `Explanation` of `Reason`s of it (`explanation`).
`words` puts it into sentences. `structure` reads attention and edges, where a model has any.
`release` bounds a patient's share in a cohort's mean, so that it may leave the site as a metric
does.

The arrows: `outcome` <- `game` <- `attribution` <- `explanation` <- `words`, `release`; `structure`
knows `outcome`. Nothing here reads a file, a clock or a socket, and no random state but the given
seed's is used.
"""
