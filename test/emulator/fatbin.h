/* Fat binaries, as nvcc puts them into objects: a header, and an entry for each piece of PTX and machine
 * code. */
#ifndef FATBIN_H
#define FATBIN_H

/* The newest PTX that a chip of that compute capability (90) takes, as text that free() takes; NULL when
 * there is none. `wrapper` is what __cudaRegisterFatBinary is given. Ends the program when the fat binary is
 * none that this reads. */
char *fatbin_ptx(const void *wrapper, unsigned capability);

#endif
