#include "device/cudnn_api.h"

#include <stdio.h>

#include "device/vendor_library.h" /* defines: vendor_library_open, vendor_library_bind */

static const char file_name[] = "libcudnn.so.9";
static const char advice[] = "Install cuDNN 9.15.1 or later, with the libraries of CUDA that it needs (pip: "
                             "nvidia-cudnn-cu12 or -cu13), "
                             "or go on without it: the attention is then this program's own.";

#define ENTRY(name, result, arguments) {"cudnn" #name, offsetof(Cudnn, name)},
static const VendorFunction functions[] = {CUDNN_FUNCTIONS(ENTRY)};

/* cuDNN opens these by name when it makes its first plan, and ends the program when there is no cublasLt.
 * Opened before, from wherever they lie, they are what it finds. */
static bool open_needed(const Cudnn *cudnn, Error *e) {
  static const char *const needed[] = {"libcublasLt", "libnvrtc"};
  for (int i = 0; i < 2; i++) {
    char name[32];
    snprintf(name, sizeof name, "%s.so.%d", needed[i], (int)(cudnn->GetCudartVersion() / 1000));
    if (!vendor_library_open(name, advice, e)) return error_prefix(e, "cuDNN needs another library: ");
  }
  return true;
}

bool cudnn_open(Cudnn *cudnn, Error *e) {
  void *library = vendor_library_open(file_name, advice, e);
  if (!library || !vendor_library_bind(library, file_name, functions, sizeof functions / sizeof *functions,
                                       cudnn, advice, e))
    return false;
  int version = (int)cudnn->GetVersion();
  if (version < CUDNN_OLDEST)
    return error_usage(e, "found cuDNN %d.%d.%d, expected %d.%d.%d or later.\n%s", version / 10000,
                       version / 100 % 100, version % 100, CUDNN_OLDEST / 10000, CUDNN_OLDEST / 100 % 100,
                       CUDNN_OLDEST % 100, advice);
  return open_needed(cudnn, e);
}
