#include "device/cublaslt_cuda.h"

#include <stddef.h>

#include "device/vendor_library.h" // defines: vendor_library_open, vendor_library_bind

#define TEXT_OF(x) #x
#define TEXT(x)    TEXT_OF(x)

#define ENTRY(name) {"cublasLt" #name, offsetof(CublasLt, name)},
static const VendorFunction functions[] = {CUBLASLT_FUNCTIONS(ENTRY)};

bool cublaslt_open(CublasLt *blas, Error *e) {
  const char *file_name = "libcublasLt.so." TEXT(CUBLAS_VER_MAJOR);
  const char *advice = "Install CUDA's libraries, or use --device cpu.";
  void *library = vendor_library_open(file_name, advice, e);
  if (!library || !vendor_library_bind(library, file_name, functions, sizeof functions / sizeof *functions,
                                       blas, advice, e))
    return false;
  cublasStatus_t status = blas->Create(&blas->handle);
  return status == CUBLAS_STATUS_SUCCESS ||
         error_runtime(e, "%s does not start: %s", file_name, blas->GetStatusString(status));
}

void cublaslt_close(CublasLt *blas) {
  if (blas->handle) blas->Destroy(blas->handle);
  blas->handle = NULL;
}
