/* What this machine offers, and why not more. */
#ifndef VMM_DOCTOR_H
#define VMM_DOCTOR_H

/* Print the findings on stdout as a JSON array of {name, status: ok|warn|no, detail}. 0 or -errno. */
int vmm_doctor(void);

#endif
