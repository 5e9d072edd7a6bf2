/* --config FILE: the flags of the command line in a file, one a line.
 *
 *   # a comment; one may also follow a value, after a blank
 *   seq-len 32Ki
 *   lr = 3e-4              the '=' may be left out, and the name may begin with "--"
 *   eval-only              flags that take no value stand alone
 *   train "my data.bin"    a value is the rest of its line; quotes keep outer blanks and " #" in it
 */
#ifndef CONFIG_FILE_H
#define CONFIG_FILE_H

#include "cli/options.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Gives the flags that the file o->config names their values, but for those that *o was given before: these
 * win, and the file's are only checked. Does nothing without o->config. The strings are *o's own: free them
 * with options_free, after an error too. Errors name FILE:LINE: an unknown flag, a bad or missing value, a
 * flag given twice in the file, flags that only a command line can have (--config, --help ...). */
bool config_file_apply(Options *o, Error *e);

#ifdef __cplusplus
}
#endif
#endif
