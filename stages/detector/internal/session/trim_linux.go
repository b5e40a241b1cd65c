package session

/*
#include <malloc.h>

static void leafcutter_trim(void) {
#ifdef __GLIBC__
	malloc_trim(0);
#endif
}
*/
import "C"

// FreeMemory gives memory that C code has freed back to the system. The C
// library keeps it otherwise.
func FreeMemory() { C.leafcutter_trim() }
