/* The version of the project's programs. */
#ifndef VERSION_H
#define VERSION_H

#define VERSION "0.1.0"

#endif
