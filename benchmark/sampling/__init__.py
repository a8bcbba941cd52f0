"""Drawing images from a model: the loop, what an attack sees of the model, and what it costs.

`sampler` is the one sampling loop, `views` what each access level shows, `ledger` counts denoiser calls,
`prediction_types` converts between what denoisers predict, `defended` puts defences around a model, `call_attack`
calls an attack and checks what it returns. May import words, stats, data and models. Attacks import from here.

    >>> from torch import tensor
    >>> from sidebench.benchmark.sampling.prediction_types import clean_estimate
    >>> x_0, noise, alpha, sigma = tensor([0.5]), tensor([-1.0]), 0.8, 0.6
    >>> clean_estimate("epsilon", alpha * x_0 + sigma * noise, noise, alpha, sigma)
    tensor([0.5000])
"""
