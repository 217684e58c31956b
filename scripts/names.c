/* Linked into the static program. Names are looked up in /etc/hosts and by DNS, whatever /etc/nsswitch.conf says: other
 * modules are shared objects of this system's C library, and one of another version than ours crashes the process. */
#include <nss.h>

__attribute__((constructor)) static void look_up_names_without_modules(void) { __nss_configure_lookup("hosts", "files dns"); }
