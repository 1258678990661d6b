"""Population prior of the online correction. Written by core.population; do not edit.

Fitted on the first halves of seven recordings of T1D-UOM (Alsuhaymi et al., University of Manchester, 2025,
CC BY 4.0).
"""

from __future__ import annotations

import base64
import zlib
from typing import Final

import numpy as np

from core.correction import N_BIN, N_PSI, Array, H, K, Population


def _load(text: str) -> Population:
    numbers = np.frombuffer(zlib.decompress(base64.b85decode(text)), "<f4").astype(np.float64)
    sizes = (K, K, K * H, K * (K + 1) // 2, H, N_PSI * H, H * N_BIN, H * N_BIN)
    parts: list[Array] = list(np.split(numbers, np.cumsum(sizes)[:-1]))
    cov = np.zeros((K, K))
    cov[np.tril_indices(K)] = parts[3]
    cov = np.tril(cov) + np.tril(cov, -1).T
    return Population(
        parts[0],
        parts[1],
        parts[2].reshape((K, H)),
        cov,
        parts[4],
        parts[5].reshape((N_PSI, H)),
        parts[6].reshape((H, N_BIN)),
        parts[7].reshape((H, N_BIN)),
    )


_TEXT: Final = (
    r"""c-jq?XFOK#1IBH#vJ$eDBrWSX_x+4>h=v);NJUGbG?extibzJ3P|_fgkmua@GtPMwS`sBCD(crzq@ktw|6g72t~b}`bA7*Za"""
    r"""&mIxvj*YrU0cPcEB3(^3xdQ3aG$8qNGKZBU5uv;NbtBNiIR?JTmH<iH~C+$8w>7ApkUDUkYKOnalw>l6WR6CI#}fpA6eZdU7"""
    r"""7DEA4<RPsAPC4&A;L_OG^HFz>RS6q;v$0<f-Y3<k7AB1vfpq1vm9i@wcYX<fuoS;HEmu3rsO2?MAi=GSu{W7Ke;Ui)?vGbIv"""
    r"""LLvf3kj!K($lo+(L^Z*Nvf`ig!@)Z#Zw;ptD(8|^2>0n;W+N<x$PUp<j%!FnE_9hgU5o^MHgmI3nErEz3cZY<BsPK}h4J4jx"""
    r"""b=}P{5;6(1Ubs;Z5cP7vMKh1ib$w*@ta`liiIb-K(Qrf-6&CRyMZAzuK`-b@G?zz@W+&3)V>~7*Ma(jg=-Min#xc9XjaX*oN"""
    r"""%>8_4KFRnLk^6_u+@ATj^X%09sOJYTsh@a|>^agQn4=#?PP)JqsFlp2)cmW-nqVDj$he=<mjqKY{<`x!g;UAJ4@1eizEE;VF"""
    r"""Px;`2a}%CQNg27C$c#7rl8`f4|%>NkSa+xBX@VZk!nqRs{5G@dFFW&>Ay3OEb(z8=M2P>uYByu6K6_!cMs1Z7u=!9cZ?S0c_"""
    r"""f*-8G4JV>@aY9>O0#lx!ulfQPU$zQJO%$ntq-g?z9sG`|lR)Tf0SaGTNOP4KQbGC+=m<GOO9{)JC>$p^)8Zlg)<dl?liX+sN"""
    r"""XmJEXq17KMx^Q$6ZqWJatK1D{8*>YW9w(v&*(S8s$k^S-7OH}*>%+Lth1=BJtDrc%c1_hV*Yu@P(fYZhDU=Exc>KOjgbnMBr"""
    r"""w?<NzU-yqYEPNWRbeCqd$L`pO>oT@s1iCi&{VFEHoB`yS#(i^5RuqU25v^Jf&_k1;zJXMP^%Pf>6nHZ43VFx)>00m__4+QJ1"""
    r"""<Vn@hLBYVqe1V;>Krr`CE&uQICsKQ0#T12)O6_Zsq`3>U7-6bE11z^QTku+DXwpZi*WrBfU6D3*Eo=k%5SK7JcTSTE)~hg<U"""
    r"""*efE$7*I(?<k|(qQ`#M>0)XR$dffH<Eg?;@5%HP52#bL0cE*Mg`J<<!Y&l8mdOjVWCB_wJF5Rg_Vf6l%y;&nY@6;BS@fWjtS"""
    r"""ie-)+05O^;#**)Hc3j9p`4T-x8GBs6uP0^}vYu={6f`W}pG3<93dW&)FzA_;R|`K4_!h=alK>6MrW%soYFD?wDBmw@aCs&*m"""
    r"""_?a(&F+Mc0{s&tjQNj<=aT2XYzlb46yE<|L*dN>T7|-5F`ka)vM3R7$Q_Y$dmASd#UMEs_qwB<4t~JL9q~SlYDGh)Ml^flP2"""
    r"""WrTVfQC~oB+GEm7}kVBqh4A-BPa$Ivr%N}(~*X@F|M3l!Ik2PV>6$G*ycdcZH7tCbemqajgBE;m)vZLe!_bbfGr6tnE92J?p"""
    r"""rHky}*J-jq|1a$QKW~_GiON*fn+7VXs+4k$X(r>(>rx`!-~8Km%h;Hg7BbO}MY5-6fwGC8&15_OShGHtJIG~36Io#pPbHN86"""
    r"""SQveVP5@rjSYI`Ec<A9UN+r8EbIDrO;%JtU#6~GBzPI$OU?ML%+%e=V187ku=qbE+4rR5GSc_9EHYoIVcTK#2D+(J*8HbLwn"""
    r"""@u?9A}kJ8a`N0O@B>OyTAUU6tc>x)-WM!n^h`{RhimgRlK|*<*}vgYLuSrL7S>fNm)Y{)v7CNo6DC)9@{0WiA<K&bmabj;|s"""
    r"""De4<#~MJezD8*ht>^R7<x0a-p_=4WT&u{V1zwk_vnAnf$T!B)M6-l~pKz#Q5*6CcldL)ZuwcC}RyrGX8R#Kx!{frhn6;9xqg"""
    r"""8!=~ku?rM2tR)dI~(RrH8&Bzj@>X|bx>U=h4d>Z>)Wg9C!zL1#{6v8N|eP?F-tzq|vU1mon_Ogw=L#&BLIs0=-KLdPTkcA0G"""
    r"""lxXvSbm#37W^&mDCLzg&Nh^vb59ZoYnzolIbHxtoPFowbmM5jk6Ji9bwfdN{Z!6eIN4?qW`|6}K-HoZ9x>o8^?S9JYtpP=Mu"""
    r""";loS{|RW^P4?~xq5ASusftjVx~<tp`T6}MUAPLY?o%K3_k1I^{HPqYul6mOw)-yG`RyaQarqDOV!Vh<XEZ3&iT6mIL;ccI($"""
    r"""9?9q{jj<`w1EBVnyXnpH1E9F{g&S`^lSr)#PoXk7S17TXN#MCh|k$R>q6>h#59fX5XIIV(0jMVKg)kGm%yGjMc3YX3q<*=$g"""
    r"""qoa;a}JxvXafbusM-wf|o^b@@^Sl{j*m>OHcC(p{=R)jC%SRv7h2ybtQI#tl2zcL6M`y?KmX_SHf*TCOH*T9U>ZX9(D{ol0!"""
    r"""*&j99^mOb-x)^xU5qn_<|`o;#m9cHsFpRup*Tw=4<onp^^$Y=FaHnCTEhsjC#%c!V#?bPc?Rkx@2MyN&K>Zq(oqvY3FPK?XR"""
    r"""b_SQJvv+Oen5wt+3?6W0^Rsf<`%X7l{;iX2y%U#RTsW2O+%UonXY~unG&9M$;6Ulh1^P_rs`X6a<uJz2<cw7Nx;g3J8B1>3p"""
    r"""ia5u{UELTt;m&Y`^akSLY>*NhN{p?rGii<#q5itLKCXU_mRJ(Y6l)OcK<@jk%b1-?^zqDCFgP}@yJC=*EyfMdc~XCv$UFYFk"""
    r"""ZqO<E>%ie|rkNwwRO6qnpXEt4@*PM;}O}qeXq!v!`}|0IG1NH|3z@NJ+8}N~%W1(l2MsnNJTOv-{a^>D)|nX{z@EL3XjNpxM"""
    r"""JfQfNM%6q1$XeZ%$C%>NoF_1{WvQ85Cyx{~#7%bw@B9dN$r<}h^5?RDN6H<h#)#(2k6_Rp6THhSnP`=sX+8yssO^9%8n%@Zz"""
    r"""@1vk!-J&VzjQJ-E)*3DZXJu$OMsu4Yn2}n+5vb^({S8)fJ*Ou#<OS|nE)3=Z*3vgrBj2N>HA+f9<ahSdF&!2txqJ`P5cUbyy"""
    r"""?>WI}Y9@JcY>>>h6G_j!FlK&R&Sw+?!kH`KJDB2tnT$9=g^X&gB#pKWkcBg!leZ@+F`IXpF!C$Zr6Cjk35wM!$t7WLNzT{;%"""
    r"""5%#$D*sqAmEWIDoge!vU0Q&c!nae|FZ)-pBLTZv&&I{<iEa^7^?FR;CC??teYa)e3ZC&xPNWEK1n7|akr_EniAUxam63Ylxz"""
    r"""wM$Q`EAE^HjFDf=X(UXH>7xV3y?^;{9TBNMgSi<rtn$eR+~g32Sqxi{1s)KZh*p5?_b8_c@6v2tLK!7hhz;cAR1Q?*K+$CqV"""
    r"""il;ibTEmIalXzmC#dnIlR5JC5m&<TAvGJ5tw^qh#pQRa7f~1~qP0u0Y$?n|&w$j173DMJ{R;lSh8bQCBNJk@-SX#y}IYP0|W"""
    r"""B?tB|tvNE6DP>?UNu9{C0dUa&?%Y$U>GY`h+Qx+RN`wpucKF9`??O?MCm$6HF-B^R`TbKw3RW{6t!{+_wvD@d*Wp`_?W^bLy"""
    r"""Ve%}K$x7?fl;_+=%Im>u=7FXTSyK@}70pkh-a2ieY?{oe>ik53s_Bq)@e3|{Eh>k-29=qEoD8YSk}hU{)K|vsj)<vYOQh;nK"""
    r"""2%8OWh#_=k&1sZfoi(`klWWPPfsA@d70zuh<aHLj@+}37ri`%F7ufWHJvdo)KcY53#;TjTeXu2OxQ|i!ycrw{U`U#XtnUMoI"""
    r"""7-i+kk_XzXK75C+J^$ySV;F*_@6M0>(xhMhEuVf%DH^gT;;=M4V|icl)A~!uBn`;3X}jHM?`b=He0Lc$ousO<jT{fnD4{!j7"""
    r"""};O$oSS&CnA*Pk_Z0X2htHDG+#Pf{lu?oQcn$a&KOer#+7BLvE&tDEY4mKGd;+kZw4J43QmS^n0%`*7q=46k5T*A3sq@ub%)"""
    r"""8I&K2kVhdq;sGM;3^QNz=A0qq<C!^-NUb=HH14r}J_!sBwqMtfjBb%^=V4aCOTDS2cIu$+T##^g2^v-EAZM1GBn&aWf`4p2W"""
    r""")*9KzpOES!Y->1F-{&>Ob(^%C=9D|p#>OO}HIPe>n_D6L7SK&sv;@+<fg89%(%a%z%{~12<_erO!vTc%_i^;RRnO_{(aGTbG"""
    r"""9#j;JH_?S!-;fK-Vxe$RwZy$`48@U8;94_DN4@WUc^_h>vCOv{TpX*ppNUNJVbxbbp)@z4hrw4Le7whgsxexf@U6`1Y6eY(2"""
    r"""Lim0KMOG_}AHs;<}NkeDkSveM(_1A#mG4Z`KSJzPM`wKTMWKlW$K2N3V9EgTfFXip=0X3fh8ShCD>8ytlw8O*JlKS|RpdHNf"""
    r"""*7dMOM$Ta18)CJcX-44};{^r7ho{cOh+FgWiJao5h5Am!8GOkR;FCT=Mfe=>qs_z6U2+6q)6JxkxMJ;gs+CIA|x#q_WnpVr$"""
    r"""}0~{Y;L$SOc#9V3~s`lDI_b5yiUR8UDZ>hJ_ixYl;lCL#{n?okDtZG1VcRRp!U0sQnQw?8k$9uwdSvp#7*GWvgbsLm+UI2@2"""
    r""")Sz5JBC-jL6k1lap=)vRc(3R%JbU#XysDfImOaRz|2!J2*N@VG^9sg9!|%pR2Bx0n=jLm33UpP`S<WSJtMdx_sX85sCyBv%n"""
    r"""}5J9ObZ&_meHCXB1k*#2K!pnVc*hp5bH8b*lU@9-QkvK<r!=4<#H3T{S6g~L;F?!mW<<^7kx+Jm7a72`6*ay-#EPJ=V9E`_?"""
    r"""S5L?ID^uqzJYT=5u{7#$oJGgIl#H;~*%9vfOo$re7%9dX<Yu9k+08BZXLCU@wV|^yNp{`OzP~6`+-$n&~lWA)bFT2w0AtKr3"""
    r"""Fx5$#GMx^!v@3QFNfn$|^%cCE5SngVl}9<>s#&WVNf%8A@dXLCfAKUU%D6cN$7<tdcnL@wQTo_}s<tt(Qy;R?LuaHHo1+Emp"""
    r"""S2mi7GC3}_d+>eD|VflH~D6tl`r}%JlZE3FV!I|7(4uMAGO7YOf13)=&8~0}CU*vN44Qh6@hP@FC{+|6Ds$B8n1-!99QJosN"""
    r"""rP>`jsQVG>+f`xxxm=WUPXd|?Khe%XRYXaoBi?yElQ+CNjyvA|KGb_&1)P@4<Inm$)Vx_m64GBSI(_XOw@t~M8?=ZcD*tg0D"""
    r"""hG5UhxgHZ&xGT|EO9nmc54(<4~mfXS$o|2b315qSHj^dO6#v#FF=pymO<7e5$iUW;*7>kc!2MY9@?%Gnu=raH&RVJziBei`l"""
    r"""HDGxXzlpb~cx5Y>)?<^(pZF-*NHc>jwPv1L4G*vTRXbUpQ=RwFd8%27&6ZHX3*L7;to=(UN5yVA{wxSZq2SrzOq-=L1;~(|D"""
    r"""D*`Sm7|dZYvtG%gTLOqhxfDrRuUUy9{keX$<zm|Y7cpNv4{%Wkl1Kna=&N&aLXDIM}tQ*>`@2GmJfiQF?k0Nv;dLc!JP=uzn"""
    r"""maO2z+q6QArsh%ao$%gyL%~%eb#VkVgAqgn&Tq!b2d<&JF93c{#h&*o_iQe?v;cKVk=ww}E_@uZ1H;S&nSM{yp;0nN>|N9Up"""
    r""")5J;SvO*i<3m2e^+cVT_v>XRJ9RrduYdpMj3lSuXqC)~S!NZP7Tzh&J*7$8NETqziGl}D|cX5vB?rH;ZvUj4$Z5qj4_{@ZRY"""
    r"""R@59;**099KFEJ7O8R-Iv<D*TXMNdCVu>ULtWw)Pg|s@rh%WU`yzqD2cT6q29BiY1L;;d{GzD}JgRhs#ZisujW&Rn1C-%#{1"""
    r"""?!osQ}F@vWRSxYP_$2<W_oMxc9Rwp57aP`SR(=OmZG(P3;oZ-_hVX3@zYF6ll@R*;(SJMPdBUMhvnXpG1$n^}{C*enky!dO+"""
    r"""7Wfu4D9IiXc{n=n=HqAeED;-x_b@Uy}cyymPOXUE<m@bB3YAXlu)wX83PJ%5T(wo*AUkRXFzZeQT(r<cUMHy`k#*-yYjH9np"""
    r"""aodnSyIjpjD0Z#X;=V%V)@}~~>3#;blfu-6P5YOW<eJo)J)vmfim%AOHeFo#eYXd&rcA$^Tl-Hr(+m9pv1cts)GemR6{dDJl"""
    r"""&e*NM0yM4~2g>4~p_Z$K=%aO7{rH&s+#mbifc+l1^qjQ2sOZiDmq%5<>01|6!9!R_Pvo&8>gGD$`P4*k$MBeNU~B};xwrwvo"""
    r"""soh^g?EM1#+?8wB@LW$*1I@{mD{)<Z#tsRoImJ;cM?igy3Yw!P61g>FOhuKS5Vo0782%<;XOeZlqyTGXL1I2yR|)bdwUWoNY"""
    r""">Et{T67)(?kqACHVdG7NpJnD0cM!ATr&e&VTkUl*nzO(fucBobz@()C9^=mdiW(-c5i^TrE+nnk9WC&j)UtFdvM2a2qUKeT?"""
    r"""W^@)88y=ApUXy+W0lt58QtJMf8I4Ws6rg#1Bw+!gkii2K5ab0r>FK6w)yH>m;$d(HrlDG{jW#{y7rXE7L->q1Sn4x-DGgL%P"""
    r"""X6=ap1T>m`K9%=?0LQkAexZXPCgC0*XKpR&lA<ZujX`k^A0VO@k6<#^bi;3vu?p(GAiyScSUG@%JY(9+^w~vSGGmpZ7Tr-fr"""
    r"""@F*-lIt4qXTXDZQ`4SG9#(?u*8n9|{z_yC7@el0`X!JM$uPHA;+A4p*t@^VfCe(r-5^w_a79EGRTYJE|S^LnsQGH-kkVId}F"""
    r"""+=4i{e}9Io6(ku)p&YG0x`)x5V^JJf;G8?#8Bp0x}ts$F#XHNR6_@}OjYO3ubzM(3WYd%e;YR4D?w^OfjBbG07Y-QD!P>O88"""
    r"""Ne)z~bqlXlYs?zEk)cpoKc33rBeP{F3J=NV<lfY%!Vh*54j(QGAAMj#=V9Z#$qMY#=VF_S0fhFVvWn0u;CViq564MRyd7gpa"""
    r"""2`M!_jM=+XE|=%_^_m}V6UAKIkiSMrlY9^YcI`2Y(ah~|s>Qoo`YHX0=wd%^1Wg*e~0A1~gr4AzYmLF-mK(cfML?(&HL|Irj"""
    r"""PuKV#DgvBI#$x_c{eASjbV9;_9-v3=sA4q!(5}kD6!Ekk$bm=a~czQbU9yNz}TO%^*$s+Fk*p0VL?*{te#!$A_30j8K&|dx7"""
    r"""$RTbLymC{3zn}SyNAHb7vklfbf7du}`MVzcaep7q(3*!^te(Ng3d3mC_<L|L6^M$LK1U5*5u&0~A)=oyS$NUKuW(L$AyAnj<"""
    r"""lXN@uA;$uc=f~=P}|2Pw#-{hZy6CF?eJ5auIOslt@nJ;YSYgsDl`|&%TvXUzH-?As4Y6HS}xqE=7xsiRq^}qHnjAl1^lsm59"""
    r"""C|zqWjApA>#o}oUCw}?p8lWH0#iG%ST`Q=T4-sY$Gd-sw_ttIQ)hurxB6|){A`Ue7H2Rj$V~M6)kHwLJ#VVd8aJz5))LWaeq"""
    r"""Z^BsQ$gMPr45=+mNXP*LCyw{;eBGJ@uT2Orb$ZRb~j=sHAjd*g}PmuAS3{eYIF$6>3!Hc))-Ie5pdCuU4>1@Xr6z-p)nhg>>"""
    r"""K*E#{@`ez~@Q1!!?&p)A^1}`A1-vpkkp@t_+jsy3smlL<#<<ak~Cn$NYJgvPt36A~kg12g|2s6@<ckoycZIMtxk2So6y?ce="""
    r"""<Om<1{LqAQ-l(8IQ?_xe7S<Cp*|i|!Itgq~<^i_*JiYiHLa9Ghapkq!M8T4F(Czw@*f3uQ+p6wI-P8_Pa`+l}G(R0Bd`v*a2"""
    r"""Tq_$m1E$$wh7$)$(*ngs^FWC3((&88gS;kDx9>R4+hr>pnsz#4*Ok?FMd3X1O9ykAN?sbYqk>aoYOiYZNgsEbK?hSxZ(p(cp"""
    r"""U;`SO1{9=R4>`lf~#=d@E>}KMmivSP#I$6T%d)xAc4c|1)-8F45>UfirM_jA$Mf&^`7GkX}U(t({p-gfu1LXDb_pn?N0~Hh7"""
    r"""A{Q3{Z^QNaJrB%p~X9Z@rXpy|PxMDxSTxV-v0`nT{IsOFsjvllG}ciOfAoo-_~&bS)U4}JlsobTMEJLN(ZH4*Lnto#3*XF&S"""
    r"""ZJK%5LVenyoJ^HHGj6%0c>py#MMnOuJoSFI}j;G>F!eG5UP^C<O`14L;mqjv~X7~^-J01+qTptkbJSal9UN>-_z0pE_E@9wb"""
    r"""?<=t0wt*9`(T)b=$LPEyW8iw{B1*PO1D+Wc&}7yOeEg6KI7d!~?-gI6x)Ym`1y5PH+BFHiTDTO?e|HTufH&Ng_kHQEK1Eb<_"""
    r"""zyTU>Wr+7DpA6AZ8ST{92E~5bM_)z+GdA3_rkSQ@Rm~tobSoQITaSL|E3cRnrOidHVVR*mG2<m?4`iz@-OGoo@neaXArvj9f"""
    r"""H>~JJFzUGn}|@1%`EPLe<bbqNFt$ZVK&!S|KrLgZc_^bgDd3$u-4?ha-V*&R)27uQkf-&q7BFRG@#q8VcIy3wp<2KuO_~`Cf"""
    r"""<Jgq7(wIMmPuPpOW8OVZ|Y{%#;ZP2~%E`J`KfMAHTQ>lr6rd;SL6II9wUoSBV_GuklHe2?$x7>iRSr{PfZc$j|2i@vqZ1NW3"""
    r"""Q;{JrcqCFR`5#uj*g69zzvEH_NRQ{`v_DJbN{*x<^p;@8mo%>!`p6LM-EHeOqhd(Tg7bCB^_vszoPS~PG1vh8M;{I9PL{Y~C"""
    r"""xcS{2sNeBKtZ!(>mjq7b9QW7=bdTsD;q@jWWy5ZwF_Z%O&URomR^>#`8zF8<B<Q?+330-kPvFRnMD(>AwEf;nntFe%{-H?#J"""
    r"""gC@-sFZH(YqSYBdM}3US!QT#(m&!==6pEkvj|(KUx#s5z2KKD5-H|g#MYbS@zxg^=-c8nJW-ZI$WMJpM?PCk9MhYG4}Uui_Y"""
    r"""c27l!_Bv`n-qMTs{NUDa=NTb1#T5x;^H;le@w@e$t3;->WSu3*H0n`2w!iI%kn&MHl+@^&nn#^&}L*cVIYmGx0BCGip$)1<~"""
    r"""XBh=E8IB5s^1{dYiFIDBgoEH#}7>D`8~XQD6I(yfTrDvRh}%`ZT#I1tl=_rSMNgw+1;G$&T9;MwX%a~G-jAxHg(!rA?6&{v0"""
    r"""CP*bIZxs(&!xA_@*`XrZFa;X&k5DWrVbqe$~eh2(coj^5S0%XpA0E(;+f}6@L&n#A(_RzKx|0}hJ=VQBx`0MKt^*9h+eQSh_"""
    r"""T2s(ur^Vp5Lm*U`uo-a^n&=C&bkQ5H|L@EnPcL0HjVS*Cfyvxz^!cbFUYxB1T91W*0L@=u*j0lzAe7-~@lw3AXcEuYJB0gWp"""
    r"""cZ$>35DY>tmbUL?~Se1E+Ka(A82f$?8^KO7cFoKzzIIicy;tf9Cw`~!df$s>Wf4)Tgw)_AUA?N4~+4%)Pvx5aDiyfv-3Pl++"""
    r"""DA%`U}Yf%YkO8J_zTv5%5JjGM(%OqQC2*S&1yMrd@}yHLO5pCxbDxUxN?n+2XibTQD4&4bzuhK<^w_lsvx(wQgSwBxNz+(d#"""
    r"""CnCyqrgiYCIfYh4ljA_V@VIN;0SOX#ulJm_I%OuRa`iDP>6C(<eVg3wxBu5X1J%5^CL*9{2J`|~W3`r<jh81azE4etOsH(YV"""
    r"""!4;B2PKL=*KyFp*s{RnFb6uB3xba`^IXN5K2ZUAw&n&@Z48m^9~AGlvG2NgzEf-8+(Kze2w^s433{>N+y*YmFkFwvdR)=wf{"""
    r"""{pzKaAD;!i>qkJ+{V4caw;1Fu_rj$*me{`iI9h*a4Om;#j6OT-68)v+@b1$Q(D6B(Yt!}@JKW;{L$VCz{JKxnj?bq-LnN`oQ"""
    r"""wzT__ycb5npXdV{{#G5eiEqH7lJ#s@-Q<$2u3cXz<hgWZ1dd=daP~bPSiRF?z*p|*Oo`|%sx5Nsr#nFPW_4E_83<fx4siSn#"""
    r"""YA>Nf!ZcRi!ZIy)OO!?j^9bJOOEZY)9`>F4J}cj`YUTQ=GN8BhgVOZB%!NAeyV4F;lo28CEi|kq!VG@Aje@WC{J*=oWC!Ru}"""
    r"""0#h!EvXRsrkgsX)zC0SLA$BYJ11;)p+GgrmA6UYg*Irz%Ro2mct*maqhG<IKX1L^F20nTd9=9{8;B5V~uc4Z{*>G{t8<etA+"""
    r"""37aR{nEnUT;wx(3xHT8PVgBK*Rp=g${-*h|S-L42;^Uo6B)=eekj2!7b?N)?cdpM_nNJKF{)o8_9CCp~YP*ao!+>&Af<Gy2%"""
    r"""5|RgwJ4lFiV>)P~&r!r}>g606I)MLij5#Z+E~4uTSD?Gyb6{yzHZh~)0`a-7gy>w3I0@>m;PZ<OI3j2v%<-r~zEMZPc{&*8^"""
    r"""4Ejie|Lkgjn8q+v0<?Kg)X?fx`3YEs!eywYk?UORUmIWC}hKIVRGytoVnvRXi5LZUHC>HJl&@N95v@c^H)pYxAIfO$ixk(Ib"""
    r"""9L%)I5(Y&Q<`y_{%tNmpc5|+Xe3KQ-KatBQbqPi4aaJ1CuUT0%yJ|H{WnKq>BHd_8cb^N)F;ZpL*f?H6=LWM?Q3NJqX`Ed<Z"""
    r"""YSKLwj)ZP?n=9oOm>(%=560gr!Aaly!X^kiSQD6w@Z-nfK<>|aA%*zL#t?+OhQUK(&CJ&ZxCGzE+Qt$-aq$IzNXRnUa6hg8Q"""
    r"""^a8Hg8buxTWHI)GlaI$!iw~E6T7s3+0AL=cKuskdV1g|&+me^MjE5;lMo;L@GcZ3kH+dAkP*$=RE;thb+oxrNKm%x@IYr&=!"""
    r"""HX>EO0Iabfjw@yIxEobRp<KxwPHCezojk`KZQ7~K^$jQzmnNR%{x!%K*+%c=wuC4{+d6F=7E%klHroI+g9Ce~Ho&#ZL!tfD8"""
    r"""tksn3hw700D1dH(dCoHu8}J$fh=MQ1lGQY!*LVc49P&&2413}<XPx`w-tJ$`4jdWeNA6$QXr09+r#&12qN6mc5?N66mfNZ5a"""
    r"""HU~f<tVL(8iM*__3ZcT;8C96D=$8v9>`F?ZTk^qh-iTje}5R61w}{1h<YTa4*i=2d8&hivAp(AzEQ5j~}F*!O`*npXiv5e;y"""
    r"""Lk{YvHBE~Zv&hTFO4`h@t`@#Q!}E&)H^JPsbzQ^k)p9l`eQCU{DB2VAi6I-J<)5BS%5QJ+RP8X5f$d5rY{?;1JoK{geIIrxa"""
    r"""2w?@F_8%sq>wr}XW_cF10u@pMZKaLh&*dScE(plmVeULv3_tLJ-|MwepC8%)y0sNq_47(m~;M`%J3Kb6Z0rSJ&&{NBUuvc9J"""
    r"""QpdZ~Sp}0gCroD{IjiyL=>94&n0yiQ6b^`P&KbbGyuI-8_Em6O)o}pdD8bt6?%e&|<M8;^VoYy4!i~IhL)>$7Jh$Pe2CnoZf"""
    r"""Z%vAuD-PZwKeA<L)ZYc5?aypU1vdb6BlpD765ZME7-NR1YC{T3dk%S++{dMtWQ+tn%N6+)1g5y%_0l2J4r4oUW>Y36w$Y{E1"""
    r"""=l4UUcGXE;Ol5<PVrXaj~?F;a0WeBHyPru=a)&|54yWsIneK#m2zUSEqpD)p4NrNh)%z_y*ohivV9@Zqq}3`RHVA6X+N?jJ<"""
    r"""uXLw9i^RLW8W<7~}gck(Qpc%=%4b<Px>5l3)6seRlv7J4Xs=qYz@$v5%qb!U+6?BgglAcLT@y+FEjGPI0bhi4dAg3mMVz<Ep"""
    r"""Uv4+c3c;9yrlmQAwTy+H%Q>{^k)>?R`I|?eO0MXAwh46J!hA{V=5VW}-MRA$h*hV1%a(q0wwI7;A7A2D<@sE!2TWsyY!0Jy}"""
    r"""sQwB%zW+b-BV3^2-xny$#1#f8%?3SzU7%kn42%r6&@U~Mp@URLWQ_lS(k_kTq&Z?3{cf16?XS&a7j59auR07||BPU%VhMN|`"""
    r"""=!ov#01603&ewWA4Airt3(SunnmHKn?<L-)39^(Ik0J{6b8oMfEG6O@cOI?u;h3@Uh(6I$Th?o=RCKCTlc*OuZs3U(+Uw%4V"""
    r"""M!gVRB&ea3%a#@qb?$h=;9r`jOMyR#5GjOkc6rfWD~~qT^$HIOPU|9~2B@@sUhCf7faLE5D_*h5JRA=bsMND4au+O1ERRCS@"""
    r"""4##D@6ZECs6X9k9D@A@-dz6SQ5AgJX<2w2rq%D>J6zm&zvi+OQn&+3X`+?`~^uPD~}#igOl)mF&W2e+=Nx+DBYBx<(xG*qQs"""
    r"""i3E`YIvqX<euZT)FHo+-{V!*j;#0~fz1gpxYg9|@)LSw@jSbb@^$Pgmr4%N6sr55}XF~WJCY=QmM+Og8{V%Lw3dQfKK0xv}<"""
    r""";!orC@P-g0w75+HyT+=)h5u*ue`Nyho-+ZW(_W|Wc)L`Qdx(wXmrWtxK1+3Of5)e}O51}y-gV}97!N)0SkX1?(MuY5n(ejpe"""
    r"""EGxLb5nz@XJO|jGND(43Q(U!ssEfpb=VTrul;V+;Zt5z{u_TP^i}}%mkFRcmh16%yOr|rDmk80&N*J<+<E++TNm&TtiH|rdP"""
    r"""70HYTy;u6j+L5e%<H!ywBukTfO41c=mwb#a`xrep$;u5~UzuqO}BR%pLx^*HZrM32FkO$wYAC^#p;-GA#i({GESkppzfzoXv"""
    r"""MxS<XK_xrUE*i}*_ug9J7meuCgOUx6%!E9hcG{At2d;z9dg;<rD}O1`?aON`9QCC|<M`HD;S@$WC%!!Lak#xF3|;oG(9@b}l"""
    r"""Jh{LqjOH`u*BzYlRNf*1250sAczjPht-;YV-XMc_5*GX3MV_kRh?e?wYKR*`E?`m1gSCa0Pcq{xT*@F$GUryRe|L77@tF+nD"""
    r"""u?$P;e+ov@vNTocS*7oid%k(1dsYMD=Ept~*RKa8m&(^jG`3BYc&hId3*PP(tH`NH3RW(Yn6I>v5N7ivjv3yPhKUCyXD=L+w"""
    r"""EEqU=*9jgDY@A$sZhBlsd~CY5*&Akw^(_I_pif_e^I)Kf8gCg{@~+WKDo(-A39{hW5OSZH(idGB)-2&Hi!3+%^Vf#MPwgodq"""
    r"""asDi7}xPe~pn|Sc7V0EGUN|HL8X)p32j;rM9Z-QN~xase|6u)V>4y)X5$VN^sMX+8U!nE%4T&jvdsee);N9M@BU$|I@ludy+"""
    r"""P#`$L23Y%!oR|KD>#Ta#K*rA=)=qeRWfc}*6dm7^}z%%bvjw5i&f3DkcNC~D4S6RK#NIhAJRP3`{Al2YAbLzP|$q3)U6QHz$"""
    r"""&p(Ftz)R9lKDgR(Vjl1YiIqP$&YcX@FDW2g}TmnVO`TA0d3nM66GLO2P6-XUQ_M=`tUqD?l45R)BS2|eB"""
)

POPULATION: Final = _load(_TEXT)
