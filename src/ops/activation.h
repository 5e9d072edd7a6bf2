/* The activations a gated feed-forward can use; plain data, so that host-only code can name them. */
#ifndef ACTIVATION_H
#define ACTIVATION_H

typedef enum Activation {
  ACT_SILU,      /* x * sigmoid(x) */
  ACT_GELU_TANH, /* 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) */
} Activation;

#endif
