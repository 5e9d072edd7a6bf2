/* A driver of CUDA without a GPU, for test_cudnn_plans, which builds it as libcuda.so.1: cuDNN makes plans
 * for chips that are not here once it can load their kernels, which this claims to do. Nothing can be run.
 * The names are those that cuDNN 9.15 to 9.28 looks up. */
enum { SUCCESS = 0, NO_DEVICE = 100, CUDA_VERSION = 13000 };

/* Modules, kernels and functions are all the same. */
static char something[64];
static int give(void **handle) {
  *handle = something;
  return SUCCESS;
}

int cuInit(unsigned flags) {
  (void)flags;
  return NO_DEVICE;
}
int cuDeviceGetCount(int *count) {
  *count = 0;
  return SUCCESS;
}
int cuDriverGetVersion(int *version) {
  *version = CUDA_VERSION;
  return SUCCESS;
}

#define GIVES(name)                                                                                          \
  int name(void **handle) {                                                                                  \
    return give(handle);                                                                                     \
  }
GIVES(cuLibraryLoadData)
GIVES(cuLibraryLoadFromFile)
GIVES(cuLibraryGetKernel)
GIVES(cuKernelGetFunction)
GIVES(cuModuleLoadData)
GIVES(cuModuleLoadDataEx)
GIVES(cuModuleLoadFatBinary)
GIVES(cuModuleGetFunction)

#define DOES_NOTHING(name)                                                                                   \
  int name(void) {                                                                                           \
    return SUCCESS;                                                                                          \
  }
DOES_NOTHING(cuCtxGetCurrent)
DOES_NOTHING(cuCtxGetDevice)
DOES_NOTHING(cuCtxGetLimit)
DOES_NOTHING(cuCtxPopCurrent)
DOES_NOTHING(cuCtxPushCurrent)
DOES_NOTHING(cuDeviceGet)
DOES_NOTHING(cuDeviceGetAttribute)
DOES_NOTHING(cuDevicePrimaryCtxRelease)
DOES_NOTHING(cuDevicePrimaryCtxReset)
DOES_NOTHING(cuDevicePrimaryCtxRetain)
DOES_NOTHING(cuFuncGetAttribute)
DOES_NOTHING(cuFuncSetAttribute)
DOES_NOTHING(cuGetErrorName)
DOES_NOTHING(cuGetErrorString)
DOES_NOTHING(cuKernelGetAttribute)
DOES_NOTHING(cuKernelSetAttribute)
DOES_NOTHING(cuLaunchCooperativeKernel)
DOES_NOTHING(cuLaunchKernel)
DOES_NOTHING(cuLaunchKernelEx)
DOES_NOTHING(cuLibraryUnload)
DOES_NOTHING(cuLinkAddData)
DOES_NOTHING(cuLinkAddData_v2)
DOES_NOTHING(cuLinkAddFile_v2)
DOES_NOTHING(cuLinkComplete)
DOES_NOTHING(cuLinkCreate)
DOES_NOTHING(cuLinkCreate_v2)
DOES_NOTHING(cuLinkDestroy)
DOES_NOTHING(cuMemcpyDtoH_v2)
DOES_NOTHING(cuModuleGetGlobal_v2)
DOES_NOTHING(cuModuleUnload)
DOES_NOTHING(cuOccupancyMaxActiveBlocksPerMultiprocessor)
DOES_NOTHING(cuOccupancyMaxPotentialClusterSize)
DOES_NOTHING(cuStreamGetCtx)
DOES_NOTHING(cuStreamGetGreenCtx)
DOES_NOTHING(cuStreamSynchronize)
DOES_NOTHING(cuTensorMapEncodeIm2col)
DOES_NOTHING(cuTensorMapEncodeTiled)
