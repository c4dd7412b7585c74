"""Descriptions of what the paper shows with each of its figures, and of what the same figure shows here."""

PAPER = {
    1: (
        "Random sparse networks learn more slowly and reach a lower test accuracy the sparser they are; winning "
        "tickets learn faster and reach a higher test accuracy until few weights remain."
    ),
    3: (
        "Down to 21.1% of weights remaining, tickets learn faster the more is pruned; at 3.6% of weights remaining "
        "they are back at the dense network's pace; reinitialised, they learn ever more slowly."
    ),
    4: (
        "At 21.1% of weights remaining the early stop comes 38% earlier; at 13.5% test accuracy is more than 0.3 "
        "points higher; at 3.6% both are back at the dense network's. Reinitialised networks fall below the dense one "
        "from 21.1% on."
    ),
    5: (
        "Conv tickets stop up to 3.5 times earlier and reach a test accuracy more than 3 points higher; they stay "
        "ahead down to 2% of weights remaining."
    ),
    6: "Dropout and winning tickets add up: each improves the accuracy of the other.",
    7: (
        "VGG-19 at learning rate 0.1 has no winning tickets under iterative pruning; with warm-up it has. At 0.01 "
        "subnetworks stay within a point of the dense network, which the paper does not call winning."
    ),
    8: "The same for the 20-layer ResNet: tickets appear at 0.01, and at 0.03 with 20,000 iterations of warm-up.",
    9: (
        "Two ways of finding the mask: weights rewound in every round, or trained on from round to round; either "
        "way the ticket is then trained from its initial values. Rewinding finds tickets that learn faster and hold "
        "on to fewer weights."
    ),
    10: "The same for Conv-2/4/6.",
    11: (
        "The validation loss shows what test accuracy does: tickets reach a lower minimum sooner, and over-fit "
        "after it."
    ),
    12: (
        "At the end of training, training accuracy is near 100% for all but the sparsest networks: the gain of "
        "tickets is one of generalisation."
    ),
    13: "Figure 5 with training accuracy: 100% down to 2% of weights remaining.",
    14: (
        "Tickets end with the highest test accuracy. Reinitialisations beat random networks for LeNet; for the "
        "convolutional networks the two do not differ significantly."
    ),
    15: "How the distribution of the initial weights that survive changes shape as pruning goes on.",
    16: (
        "Under SGD all three layers split in two, the first as well; the first leans to negative values, the other "
        "two to positive ones."
    ),
    17: (
        "Weights drawn anew from the ticket's own distribution do no better than the original initialisation's: "
        "what matters are the values in their places."
    ),
    18: (
        "Pruning by initial magnitude, before training, is worse than iterative pruning by trained magnitude, even "
        "when the tickets of the latter are reinitialised."
    ),
    19: "Weights that end in the ticket move more during the dense training than those pruned.",
    20: "Weights of the ticket are more likely to grow in magnitude than the others.",
    21: "Each unit keeps about the same share of its incoming connections.",
    22: "The same under SGD.",
    23: "The same for outgoing connections: inputs differ, since pixels at the border say nothing.",
    24: "Under SGD the inputs differ less.",
    25: (
        "Half a sigma of noise on the ticket's initial weights changes little; even at 3 sigma tickets beat "
        "reinitialisation."
    ),
    26: "With Adam, tickets are found at learning rates from 2e-4 to 2e-3.",
    27: "SGD at 0.4 to 0.8 keeps its speed to fewer weights than Adam.",
    28: "The same with momentum 0.9, at learning rates from 0.025 to 0.1.",
    29: "Smaller steps of pruning find better tickets, at the cost of more rounds.",
    30: "Gaussian initialisations of other widths find tickets too.",
    31: "Whatever the width, accuracy is back at the dense network's at 9 to 15 thousand weights.",
    32: "The Adam learning rates at which Conv-2/4/6 have tickets.",
    33: "The SGD learning rates at which they have.",
    34: "The same with momentum.",
    35: "How fast convolutions can be pruned.",
    36: "The learning rates that work with dropout.",
    37: "Tickets where only convolutions, only dense layers, or both are pruned, beside each other.",
    38: "VGG-19, global against layer-wise: global pruning goes further, since layers differ much in size.",
    39: "The same for ResNet-18.",
    40: "VGG-19 pruned layer by layer.",
    41: "ResNet-18 pruned layer by layer.",
    42: "VGG-19 pruned layer by layer, at several learning rates.",
    43: "VGG-19 pruned layer by layer, with several warm-ups.",
    44: "ResNet-18 pruned layer by layer, at several learning rates.",
    45: "ResNet-18 pruned layer by layer, with several warm-ups.",
}

# only figures that have tables; they give sizes alone, since the scorecard has the results, computed from the tables
HERE = {
    1: (
        "The means have the same order: for LeNet from the second round on (in the first, the random networks' mean "
        "test accuracy is a little higher), in the three shorter trials of Conv-2 from the first. In the last round of "
        "Conv-2, neither tickets nor random networks have reached their early stop before training ends. Conv-4 has "
        "one trial so far, without random networks; its tickets stop earlier than the dense network down to 4.5% of "
        "weights, earliest at 19.6% of weights, and in the last round not before training ends."
    ),
    3: (
        "Two curves differ from the paper's. At 3.6% of weights remaining, tickets lie above the dense network from "
        "about iteration 1,000 on, although their early stop comes no earlier; after the 15,000 iterations shown they "
        "fall back to it. Reinitialised networks with 51.3% of weights are slower than the dense network only at "
        "first. The order of the others is the paper's. At 21.1% of weights, the mean of the tickets lies above that "
        "of their reinitialisations at every evaluation."
    ),
    4: (
        "By the means, one-shot tickets fall below the dense network at a larger size than the paper's, but the trials "
        "cannot tell the two sizes apart (L10e). They are near the iterative tickets at first: the trials can tell the "
        "two apart by the early stop at 51.3% of weights remaining and from 26.3% of weights on, and by test accuracy "
        "from 16.9% of weights. "
        "Where few weights remain (below the panels), one-shot tickets fall below reinitialised tickets; whether they "
        "fall below their own reinitialisations, too, the trials cannot tell. Iterative tickets keep the dense "
        "network's accuracy down to about as few weights as in the paper. Their test accuracy at the early stop is "
        "higher than that of their reinitialisations; the trials can tell this difference from zero from 41.1% of "
        "weights remaining on. The scorecard has the numbers with their intervals."
    ),
    5: (
        "The figure shows Conv-2 in three trials, and Conv-4 in one trial, with fewer iterations than the paper's. "
        "Down to 7.1% of weights remaining, by the means, Conv-2's tickets stop earlier than the dense network and "
        "reach its test accuracy, or are within a tenth of a point of it. They stop much less early than in the paper "
        "(C1). Conv-4's tickets stop earlier than the dense network down to 4.5% of weights, earliest at 19.6% of "
        "weights. Down to 13.3% of weights remaining, their test accuracy there is above the dense network's or less "
        "than half a point below it; from 9.2% of weights on it is further below. Their validation accuracy, on five "
        "times as many images, is above the dense network's down to 9.2% of weights. At the early stop, reinitialised "
        "networks are below the dense network from the first round on; at the end of training, Conv-4's are above it "
        "in the first two rounds. The minimum validation loss of reinitialised networks was mostly near their last "
        "iteration, so they might improve with longer training."
    ),
    9: (
        "The result is the same. From the second round on, the mean of tickets found by rewinding is higher, for the "
        "most part more so the fewer weights remain; the trials can tell the difference from zero from 21.1% of "
        "weights remaining on (X1 has its interval at one size). These tickets stop earlier in nearly every round. The "
        "arm `continued_reset` has the masks of the second strategy. The arm `continued` in the tables, networks that "
        "are trained on from round to round, is not drawn here."
    ),
    11: (
        "The curves have the same shape. From half of the weights down to about a twentieth, the minima of the "
        "trials come earlier than the dense network's on average, in most rounds by more than the interval. Where "
        "fewest weights remain they come long after it. Beyond its minimum the loss rises, which is why it defines "
        "the early stop."
    ),
    12: "The result is the same until few weights remain.",
    13: (
        "The figure shows Conv-2, and Conv-4 in one trial, as Figure 5 does. With so few iterations no network fits "
        "all of its training images. Conv-4's tickets end with more of them right than the dense network down to 4.5% "
        "of weights remaining, and Conv-2's down to 7.1% of weights."
    ),
    14: (
        "For LeNet the means have the same order once most of the weights are pruned. In the three trials of Conv-2, "
        "tickets end above both others from the first round on. Random networks end higher than reinitialised ones in "
        "the first two rounds, with intervals that exclude zero; in later rounds the trials cannot tell the two apart. "
        "The one trial of Conv-4 ends with tickets above reinitialised ones in each round, and above the dense network "
        "down to 4.5% of weights."
    ),
    15: (
        "In the second and the output layer, small initial values are pruned, and more of them the more is pruned. "
        "Once few weights remain, most of the surviving values in the second layer are positive; in the output layer "
        "they split in two groups, most of them negative. In the first layer the effect is weaker: the remaining "
        "weights started only a little larger than the pruned ones, and the distribution keeps its shape. With "
        "standardised pixels they started about a third larger once half of the weights are pruned and half as large "
        "again once four fifths are, and nearly twice as large in the shorter training runs of the study of ticket "
        "structure."
    ),
    16: (
        "All three layers split in two groups around zero. In the first layer somewhat more of the surviving weights "
        "are negative, as in the paper. In the second layer negative ones are more at first, and positive ones where "
        "few weights remain. In the output layer the two groups stay about equal; in the paper it leans to positive "
        "values."
    ),
    18: (
        "The result is the same. Pruned by initial magnitude, networks reach a lower mean test accuracy at the early "
        "stop than tickets, and, in the trials that both runs have, from 51.3% of weights remaining on a lower one "
        "than the same tickets reinitialised, which were trained on another kind of processor. "
        "From 13.5% of weights on, the trials can tell the latter difference from zero at all sizes but three. They "
        "cannot tell these networks from random sparse ones, except at 3.6% of weights, where they are a little "
        "better."
    ),
    19: "The result is the same in all layers (at 16.9% of weights remaining).",
    20: (
        "Weights of the ticket grow more than pruned weights, in all three layers (at 16.9% of weights remaining). "
        "The pruned weights grow, too."
    ),
    21: (
        "Here units of the first layer differ: at 16.9% of weights remaining each keeps some incoming connections, but "
        "their numbers spread several times as widely as in random masks of the same size. Where few weights remain, "
        "many units have none. The curves are cumulative, so a steep line means that units are alike."
    ),
    22: (
        "Where few weights remain, several times as many units of the second layer as under Adam (Figure 21) have no "
        "incoming connection: at 1.2% of weights remaining, more than half of them. In the first layer they are fewer "
        "at first, and about as many from 1.9% of weights on."
    ),
    23: (
        "Where few weights remain, a growing share of the pixels has no connection at all, while other pixels keep "
        "several percent of their connections."
    ),
    24: (
        "As in the paper, pixels differ less than under Adam (Figure 23) while many weights remain. Where few remain "
        "they differ more: at 1.2% of weights, more than twice as many pixels as under Adam have no connection."
    ),
    25: (
        "At half a sigma of noise, the loss in accuracy cannot be told from zero where X4 reads it, and is less "
        "than a tenth of a point where few weights remain. At 3 sigma, tickets reach a lower test accuracy than "
        "their reinitialisations while many weights remain, and also where X4b reads it. From one round later on, "
        "they reach a higher one on average."
    ),
    26: (
        "The result is the same, except at the lowest rate, with fewer iterations than the paper's and two of its "
        "rounds in one. At rates from 2e-4 to 2e-3, tickets end with a higher mean test accuracy than the dense "
        "network from 26.3% of weights remaining down to 10.8% of weights, and at 1.2e-3 and 2e-3 down to 4.5% of "
        "weights. At 6.4e-3 they do so down to 1.9% of weights, but networks with many weights are less accurate. At "
        "2.5e-5 training is too short: the validation loss of nearly all networks is least when it ends."
    ),
    27: (
        "The result is the same at 0.4 and 0.8, the rates that the paper names, with fewer iterations than the paper's "
        "and two of its rounds in one. At 0.05 and 0.1 our tickets have a lower mean validation accuracy than the "
        "dense network in every round; at 0.1 they still stop earlier down to 1.9% of weights remaining. At 0.4 and "
        "0.8, the mean early stop of tickets comes no later than the dense network's from 41.1% of weights down to the "
        "last round, at 1.2% of weights, where at 0.4 nothing of the lead is left; under Adam at 1.2e-3 (Figure 26) it "
        "does so down to 7.0% of weights. At 0.05 training is "
        "hardly long enough: even the dense network stops shortly before it ends. Tickets at 0.8 end with a higher "
        "mean test accuracy than the dense network, whose trials differ widely at this rate, down to 1.9% of weights. "
        "At 0.4, where the dense network ends best, no ticket does."
    ),
    28: (
        "The figure has fewer iterations than the paper's and two of its rounds in one. At all three rates, the mean "
        "early stop of tickets comes earlier than the dense network's down to 1.9% of weights remaining, except at 0.1 "
        "in one round. Their mean validation accuracy there is higher down to 2.9% of weights at 0.025, to 4.5% of "
        "weights at 0.05 and to 1.9% of weights at 0.1. At the end of training it is different. Only at 0.1, where the "
        "dense network itself falls behind, do tickets have a higher mean test accuracy, again down to 1.9% of "
        "weights. At 0.025 none has, and at 0.05 only those of the first round."
    ),
    29: (
        "The result is the same, with fewer iterations than the paper's. With many weights, the steps of 0.1 to 0.6 "
        "cannot be told apart by eye. Where few remain, smaller steps reach a higher mean accuracy; those of 0.1 and "
        "0.2 are about alike. At about 1.1% of weights remaining and below, five of the six networks pruned at 0.6 "
        "and 0.8 stop in the last twentieth of training, so longer training might improve them."
    ),
    30: (
        "The result is the same, with fewer iterations than the paper's and two of its rounds in one. At all four "
        "widths, the mean early stop of tickets comes earlier than the dense network's down to 7.0% of weights "
        "remaining, and their mean validation accuracy there is higher, except at 0.2 in one round; their mean test "
        "accuracy is so, too, except at 0.025 in two rounds. At 0.2, dense networks and tickets of all sizes reach a "
        "lower mean test accuracy than at the other widths."
    ),
    31: (
        "The figure has fewer iterations than the paper's and two of its rounds in one. Below about 8,000 weights, "
        "wider networks reach a higher mean test accuracy than narrower ones with as many weights. From about 11,000 "
        "to 45,000 weights the three widest are about alike; with more weights, the widest is ahead. The three "
        "narrowest stay behind in part because training is too short for them: many of their small tickets stop in the "
        "last twentieth of it. X5b and X5c grade the sizes at which two of the networks are back at their dense "
        "accuracy. The largest still has it in its last round, and might have it with fewer weights, too."
    ),
}

# The digest of the tables that each of these texts was written for (`tables_of` in paper_figures.py). A text whose
# tables have changed is not shown: read it beside the new figure, then put the new digest here.
WRITTEN_FOR = {
    1: "e4c6a2c6adf964ae",
    3: "99ae04664e22fc10",
    4: "99ae04664e22fc10",
    5: "c3c5baa54e6a144e",
    9: "99ae04664e22fc10",
    11: "99ae04664e22fc10",
    12: "99ae04664e22fc10",
    13: "c3c5baa54e6a144e",
    14: "e4c6a2c6adf964ae",
    15: "99ae04664e22fc10",
    16: "2a8e2263590daae4",
    18: "9aac00366c7633d8",
    19: "99ae04664e22fc10",
    20: "99ae04664e22fc10",
    21: "99ae04664e22fc10",
    22: "2a8e2263590daae4",
    23: "99ae04664e22fc10",
    24: "2a8e2263590daae4",
    25: "67a87986540acdd3",
    26: "1737fc97c12113cd",
    27: "5af07c928637edff",
    28: "d2c1e1ef0f35596f",
    29: "e33134b19ee1eccc",
    30: "fada699f759d14f2",
    31: "83f9e86193a1c65b",
}
