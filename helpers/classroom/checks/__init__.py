"""The learner's checks, by chapter; each judges an answer against an oracle of its own."""
from .ch01 import damped_solve, loo_residuals, removal_effect, ridge_influence
from .ch02 import find_output_grad, ghost_norms, make_hook
from .ch03 import ekfac_eigenvalues, ggn_product, kron_ihvp
from .ch04 import completion_labels, content_weights, on_predicted, token_influence
from .ch05 import both_splits, mend_a, moves_alone
from .ch06 import lds, noise_ceiling, through_training
from .ch07 import drop_tokens, other_target, when_learnt
from .ch08 import multiplications, recall, together, whiten
from .ch09 import smallest_set, two_factors, word_log_probs
from .ch10 import lora_gradients, loss_labels, relatif
