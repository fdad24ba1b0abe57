"""What a model promises beside its prediction, kept: intervals, alarms, probabilities.

`scores` measures how far an outcome is from its prediction, in half-widths of the model's own
band, and widens a band by a radius. `conformal` turns such scores into a bounded histogram that may
be summed and noised, and a histogram into a radius or a tail probability. `monitor` bets on scores
along a course and says stay or pivot; `crossing` warns before a clinical threshold is crossed.
`responders` makes probabilities of a response fit, and says whom a trial should enrol.

`release` is what a study sums of its held-out patients, and reads from the sum for a model's card.

The arrows: `scores` knows the models' contract and cohorts. `monitor` knows `scores` and
`conformal`, and `release` both and the card; nothing else here knows another. Nothing here reads a
file, a clock or a socket.
"""
